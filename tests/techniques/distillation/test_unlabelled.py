from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tasks.contracts.errors import DataError
from tasks.techniques.distillation.unlabelled import labelled_only, num_unlabelled, training_rows
from tasks.techniques.loss import Batch, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

SPLITS = {
    "train": Arrays(np.ones((3, 2), dtype=np.float32), np.array([2, 0, 1])),
    "unlabelled": Arrays(np.zeros((2, 2), dtype=np.float32), np.array([-1, -1])),
}


def test_training_rows_appends_the_unlabelled_ones_when_they_are_wanted(make_context: MakeContext) -> None:
    rows = training_rows(make_context(load_split=SPLITS.get), use_unlabelled=True)
    assert rows.x.tolist() == [[1, 1]] * 3 + [[0, 0]] * 2
    assert rows.y.tolist() == [2, 0, 1, -1, -1]
    assert num_unlabelled(rows) == 2


def test_training_rows_reads_the_train_split_alone_when_they_are_not_wanted(make_context: MakeContext) -> None:
    def load_split(name: str) -> Arrays:
        if name != "train":
            raise DataError(f"there is no split {name}")
        return SPLITS["train"]

    context = make_context(load_split=load_split)
    assert training_rows(context, use_unlabelled=False) is SPLITS["train"]
    with pytest.raises(DataError, match="unlabelled"):
        training_rows(context, use_unlabelled=True)


@pytest.fixture(scope="module")
def outputs() -> torch.Tensor:
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def batch(labels: list[int], partners: list[int] | None = None, share: float = 1.0) -> Batch:
    partner_labels = None if partners is None else torch.tensor(partners)
    return Batch(torch.zeros(4, 1), torch.tensor(labels), torch.arange(4), partner_labels, share)


def test_labelled_only_charges_the_labelled_rows_over_all_rows(outputs: torch.Tensor) -> None:
    loss = labelled_only(label_loss("classification"))
    expected = -(outputs[0].log_softmax(0)[2] + outputs[2].log_softmax(0)[1]) / 4
    torch.testing.assert_close(loss(outputs, batch([2, -1, 1, -1])), expected)


def test_labelled_only_equals_the_label_loss_when_all_rows_are_labelled(outputs: torch.Tensor) -> None:
    plain = label_loss("classification", label_smoothing=0.1)
    for whole in (batch([2, 0, 1, 1]), batch([2, 0, 1, 1], [0, 0, 2, 1], 0.7)):
        torch.testing.assert_close(labelled_only(plain)(outputs, whole), plain(outputs, whole))


def test_labelled_only_charges_the_labelled_part_of_a_blend_with_its_share(outputs: torch.Tensor) -> None:
    each = -outputs.log_softmax(1)
    expected = (0.7 * (each[0, 2] + each[2, 1]) + 0.3 * (each[1, 2] + each[3, 1])) / 4
    found = labelled_only(label_loss("classification"))(outputs, batch([2, -1, 1, -1], [-1, 2, -1, 1], 0.7))
    torch.testing.assert_close(found, expected)


def test_labelled_only_gives_a_gradient_of_zero_when_no_row_is_labelled(outputs: torch.Tensor) -> None:
    watched = outputs.clone().requires_grad_()
    value = labelled_only(label_loss("classification"))(watched, batch([-1, -1, -1, -1]))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(watched.grad, torch.zeros_like(watched))


def test_labelled_only_keeps_unknown_targets_out_of_loss_and_gradient_when_the_task_is_regression() -> None:
    outputs = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    rows = Batch(torch.zeros(3, 1), torch.tensor([3.0, float("nan"), 3.5]), torch.arange(3))
    value = labelled_only(label_loss("regression"))(outputs, rows)
    value.backward()
    assert value.item() == pytest.approx((4 + 0.25) / 3)
    torch.testing.assert_close(outputs.grad, torch.tensor([[-4 / 3], [0.0], [-1 / 3]]))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_fit_scores_the_labelled_rows_alone(make_context: MakeContext, task) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(6, 2)).astype(np.float32)
    known = np.array([0, 2, 1, 0]) if task == "classification" else generator.normal(size=4).astype(np.float32)
    unknown = np.full(2, -1 if task == "classification" else np.nan, dtype=known.dtype)
    module = nn.Linear(2, 3 if task == "classification" else 1)
    with torch.no_grad():
        outputs = module(torch.from_numpy(x))[:4]
    records = []
    fit(
        module,
        Arrays(x, np.concatenate([known, unknown])),
        labelled_only(label_loss(task)),
        Schedule(epochs=1, batch_size=6, learning_rate=1e-6),
        make_context(task=task, report=records.append),
    )
    if task == "classification":
        expected = {"train_accuracy": float((outputs.argmax(1) == torch.from_numpy(known)).float().mean())}
    else:
        expected = {"train_rmse": functional.mse_loss(outputs[:, 0], torch.from_numpy(known)).sqrt().item()}
    (name,) = expected
    assert records[0].metrics[name] == pytest.approx(expected[name], rel=1e-5)
