from collections.abc import Callable

import numpy as np
import pytest
import torch

from tasks.contracts.data import Task
from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.stages.training import train_model
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext


class MemoryCheckpoints:
    def __init__(self) -> None:
        self.data: bytes | None = None

    def save(self, data: bytes) -> None:
        self.data = data

    def load(self) -> bytes | None:
        return self.data


def make_context(split: Arrays, task: Task, num_outputs: int, report: Callable[[EpochRecord], None]) -> StageContext:
    def load_split(name: str) -> Arrays:
        assert name == "train"
        return split

    return StageContext(
        task=task,
        input_shape=split.x.shape[1:],
        num_outputs=num_outputs,
        seed=3,
        load_split=load_split,
        load_baseline=lambda: pytest.fail("a baseline has no teacher"),
        checkpoints=MemoryCheckpoints(),
        report=report,
    )


@pytest.fixture
def table() -> Arrays:
    """Return raw features of very different scales; the class is the sign of their standardised sum."""
    standard = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    features = standard * np.float32([1e-3, 1, 50, 1e5]) + np.float32([0, 7, -300, 1e6])
    return Arrays(features, (standard.sum(axis=1) > 0).astype(np.int64))


MODEL = Architecture(factory="tasks.models.mlp:mlp", kwargs={"hidden": [16]})
SCHEDULE = Schedule(epochs=30, batch_size=20, learning_rate=1e-2)


def test_train_model_learns_raw_features_and_fills_in_the_shapes(table: Arrays) -> None:
    records: list[EpochRecord] = []
    applied = train_model(MODEL, SCHEDULE, make_context(table, "classification", 2, records.append))
    network = Network.from_bytes(applied.model)
    assert network.architecture.kwargs == {"hidden": [16], "input_shape": [4], "num_outputs": 2}
    predictions = network.module(torch.from_numpy(table.x)).argmax(dim=1).numpy()
    assert (predictions == table.y).mean() > 0.97
    assert [record.step for record in records] == list(range(1, 31))
    assert applied.details == {"num_parameters": 4 * 16 + 16 + 16 * 2 + 2}


def test_train_model_gives_equal_bytes_when_it_is_run_again(table: Arrays) -> None:
    schedule = SCHEDULE.model_copy(update={"epochs": 2})
    first, second = (
        train_model(MODEL, schedule, make_context(table, "classification", 2, lambda record: None)) for _ in range(2)
    )
    assert first.model == second.model


def test_train_model_learns_a_target_in_its_own_unit_when_the_task_is_regression(table: Arrays) -> None:
    target = (table.x[:, 2] * 3).astype(np.float32)  # mean about -900, standard deviation about 150
    kwargs = {"hidden": [16], "output_scale": float(target.std()), "output_offset": float(target.mean())}
    records: list[EpochRecord] = []
    context = make_context(Arrays(table.x, target), "regression", 1, records.append)
    applied = train_model(Architecture(factory="tasks.models.mlp:mlp", kwargs=kwargs), SCHEDULE, context)
    outputs = Network.from_bytes(applied.model).module(torch.from_numpy(table.x)).squeeze(1).detach().numpy()
    assert np.sqrt(np.square(outputs - target).mean()) < 0.15 * target.std()
    assert records[-1].metrics["train_rmse"] < records[0].metrics["train_rmse"]


def test_train_model_names_the_factory_when_it_cannot_be_imported(table: Arrays) -> None:
    model = Architecture(factory="tasks.models.mlp:no_such_network")
    with pytest.raises(ModelError, match="no_such_network"):
        train_model(model, SCHEDULE, make_context(table, "classification", 2, lambda record: None))


@pytest.fixture
def shifted(table: Arrays) -> Arrays:
    """Return other rows whose class boundary is turned a little: the first feature counts half as much."""
    standard = np.random.default_rng(7).normal(size=(200, 4)).astype(np.float32)
    features = standard * np.float32([1e-3, 1, 50, 1e5]) + np.float32([0, 7, -300, 1e6])
    return Arrays(features, (standard @ np.float32([0.5, 1, 1, 1]) > 0).astype(np.int64))


def losses(start: bytes | None, rows: Arrays) -> list[float]:
    records: list[EpochRecord] = []
    schedule = Schedule(epochs=5, batch_size=20, learning_rate=3e-3)
    train_model(MODEL, schedule, make_context(rows, "classification", 2, records.append), start=start)
    return [record.metrics["loss"] for record in records]


def test_train_model_converges_faster_from_weights_of_a_like_task(table: Arrays, shifted: Arrays) -> None:
    earlier = train_model(MODEL, SCHEDULE, make_context(table, "classification", 2, lambda record: None))

    warm, scratch = losses(earlier.model, shifted), losses(None, shifted)

    assert warm[0] < scratch[-1], "one epoch from the earlier weights is worth more than five from drawn ones"
    assert warm[-1] < 0.5 * scratch[-1]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"hidden": [8]}, r'kwargs: \{"hidden": \[8\], .* instead of \{"hidden": \[16\]'),
        ({"hidden": [16], "num_outputs": 3}, r'"num_outputs": 3\} instead of .*"num_outputs": 2\}'),
    ],
)
def test_train_model_refuses_weights_of_another_architecture(table: Arrays, other: dict, message: str) -> None:
    kwargs = {"input_shape": [4], "num_outputs": 2} | other
    start = Network.create(Architecture(factory="tasks.models.mlp:mlp", kwargs=kwargs), seed=0).to_bytes()

    with pytest.raises(ModelError, match=f"of another architecture than baseline\\.train\\.model .*{message}"):
        train_model(MODEL, SCHEDULE, make_context(table, "classification", 2, lambda record: None), start=start)
