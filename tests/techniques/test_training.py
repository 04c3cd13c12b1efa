import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import EpochRecord
from tasks.evaluation.machine import computes_bfloat16, instruction_sets
from tasks.models.resnet import resnet
from tasks.techniques.loss import Batch, label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import device_for, fit, make_optimizer

MakeContext = Callable[..., StageContext]

SGD = Schedule(epochs=5, batch_size=16, optimizer="sgd", learning_rate=0.05, checkpoint_every=2)
ADAMW = Schedule(epochs=5, batch_size=16, optimizer="adamw", learning_rate=3e-3, checkpoint_every=2)


class KilledError(Exception):
    """Stands for the end of the process."""


def small_resnet(width: int = 4) -> nn.Module:
    """Return a network with batch norm, shortcuts and dropout, always with the same initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return resnet((1, 8, 8), num_outputs=3, width=width, blocks=[1, 1], dropout=0.2)


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    expected = first.state_dict()
    assert expected.keys() == second.state_dict().keys()
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def with_augmentation(schedule: Schedule) -> Schedule:
    return Schedule.model_validate(schedule.model_dump() | {"augmentation": {"shift_pixels": 1}})


def test_learning_rate_at_follows_the_values_worked_by_hand() -> None:
    schedule = Schedule(learning_rate=0.8, warmup_fraction=0.25)
    rates = [schedule.learning_rate_at(step, 16) for step in range(16)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 0.8  # cosine: 0.4 (1 + cos 0)
    assert rates[10] == pytest.approx(0.4)  # half way down: 0.4 (1 + cos(pi / 2))
    assert rates[15] == pytest.approx(0.4 * (1 + math.cos(math.pi * 11 / 12)))
    assert rates[15] > 0  # the last step still learns


def test_learning_rate_at_starts_at_the_peak_when_there_is_no_warm_up() -> None:
    assert Schedule(learning_rate=0.5, warmup_fraction=0).learning_rate_at(0, 1) == 0.5


def test_label_loss_equals_cross_entropy_with_smoothing_worked_in_numpy() -> None:
    logits = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
    labels = np.array([0, 1])
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = np.full((2, 3), 0.3 / 3)
    targets[[0, 1], labels] += 0.7
    expected = -(targets * log_probabilities).sum(axis=1).mean()
    batch = Batch(torch.zeros(2, 1), torch.from_numpy(labels), torch.arange(2))
    assert label_loss("classification", 0.3)(torch.from_numpy(logits), batch).item() == pytest.approx(expected)


def test_label_loss_is_the_mean_squared_error_when_the_task_is_regression() -> None:
    batch = Batch(torch.zeros(2, 1), torch.tensor([1.0, 4.0]), torch.arange(2))
    assert label_loss("regression")(torch.tensor([[2.0], [1.0]]), batch).item() == (1 + 9) / 2


def test_fit_takes_the_steps_of_nesterov_momentum_worked_in_numpy(make_context: MakeContext) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20, 3)), generator.normal(size=20)
    schedule = Schedule(
        epochs=6, batch_size=20, optimizer="sgd", learning_rate=0.1, weight_decay=0.02, warmup_fraction=0.5
    )
    module = nn.Linear(3, 1).double()
    weight = module.weight.detach().numpy()[0].copy()
    bias = module.bias.detach().numpy().copy()
    velocity_weight, velocity_bias = np.zeros(3), np.zeros(1)
    for rate in [
        0.1 / 3,
        0.2 / 3,
        0.1,
        0.1,
        0.05 * (1 + math.cos(math.pi / 3)),
        0.05 * (1 + math.cos(2 * math.pi / 3)),
    ]:
        residual = x @ weight + bias - y
        gradient_weight = 2 * x.T @ residual / 20 + 0.02 * weight
        gradient_bias = np.array([2 * residual.mean()])  # biases do not decay
        velocity_weight = 0.9 * velocity_weight + gradient_weight
        velocity_bias = 0.9 * velocity_bias + gradient_bias
        weight -= rate * (gradient_weight + 0.9 * velocity_weight)
        bias -= rate * (gradient_bias + 0.9 * velocity_bias)
    fit(module, Arrays(x, y), label_loss("regression"), schedule, make_context(task="regression"))
    np.testing.assert_allclose(module.weight.detach().numpy()[0], weight, rtol=1e-10)
    np.testing.assert_allclose(module.bias.detach().numpy(), bias, rtol=1e-10)


def rounded(values: np.ndarray) -> np.ndarray:
    """Round to the 8 significant bits of bfloat16, ties to even."""
    mantissas, exponents = np.frexp(values.astype(np.float32))
    return np.ldexp(np.round(mantissas * 256) / 256, exponents)


@pytest.mark.skipif(computes_bfloat16(instruction_sets()) is False, reason="the processor has no bfloat16")
def test_fit_in_bfloat16_rounds_what_is_multiplied_but_not_the_weights_worked_in_numpy(
    make_context: MakeContext,
) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(16, 3)).astype(np.float32)
    y = generator.normal(size=16).astype(np.float32)
    schedule = Schedule(
        epochs=1, batch_size=16, optimizer="sgd", learning_rate=0.1, weight_decay=0, warmup_fraction=0,
        precision="bfloat16",
    )  # fmt: skip
    module = nn.Linear(3, 1, bias=False)
    weight = module.weight.detach().numpy()[0].copy()
    outputs = rounded(rounded(x) @ rounded(weight))
    gradient = 2 * rounded(x).T @ rounded((outputs - y) / 16)
    expected = weight - 0.1 * 1.9 * gradient  # Nesterov's first step: (1 + momentum) times the gradient
    fit(module, Arrays(x, y), label_loss("regression"), schedule, make_context(task="regression"))
    found = module.weight.detach().numpy()[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert not np.array_equal(found, rounded(found))  # an update smaller than bfloat16's step is kept


@pytest.mark.skipif(computes_bfloat16(instruction_sets()) is False, reason="the processor has no bfloat16")
def test_fit_in_bfloat16_gives_the_same_float32_weights_twice(images: Arrays, make_context: MakeContext) -> None:
    module, again = small_resnet(), small_resnet()
    schedule = SGD.model_copy(update={"precision": "bfloat16"})
    for network in (module, again):
        fit(network, images, label_loss("classification"), schedule, make_context())
    assert_same_weights(module, again)
    assert all(parameter.dtype is torch.float32 for parameter in module.parameters())


def test_fit_learns_separable_images(images: Arrays, make_context: MakeContext) -> None:
    records: list[EpochRecord] = []
    module = small_resnet()
    fit(
        module,
        images,
        label_loss("classification"),
        Schedule(epochs=10, batch_size=8),
        make_context(report=records.append),
    )
    assert not module.training
    predictions = module(torch.from_numpy(images.x)).argmax(dim=1).numpy()
    assert (predictions == images.y).mean() == 1.0
    assert records[-1].metrics["loss"] < records[0].metrics["loss"]


def test_fit_reports_the_means_of_the_epoch(make_context: MakeContext) -> None:
    generator = np.random.default_rng(1)
    split = Arrays(generator.normal(size=(10, 2)), generator.normal(size=10))
    module = nn.Linear(2, 1).double()
    before = module(torch.from_numpy(split.x)).detach().numpy()[:, 0]
    records: list[EpochRecord] = []
    schedule = Schedule(epochs=1, batch_size=10, optimizer="sgd", learning_rate=0.1, warmup_fraction=0)
    context = make_context(task="regression", report=records.append)
    fit(module, split, label_loss("regression"), schedule, context, first_step=9)
    squared = np.square(before - split.y).mean()
    assert [record.step for record in records] == [9]
    assert records[0].metrics == pytest.approx({"loss": squared, "learning_rate": 0.1, "train_rmse": squared**0.5})


@pytest.mark.parametrize("killed_in_epoch", [1, 3, 5])
@pytest.mark.parametrize("schedule", [with_augmentation(SGD), with_augmentation(ADAMW)], ids=["sgd", "adamw"])
def test_fit_ends_bit_identical_when_it_was_killed_and_resumed(
    images: Arrays, make_context: MakeContext, schedule: Schedule, killed_in_epoch: int
) -> None:
    loss = label_loss("classification", label_smoothing=0.1)
    whole, whole_records = small_resnet(), []
    fit(whole, images, loss, schedule, make_context(report=whole_records.append))

    def report_until_killed(record: EpochRecord) -> None:
        if record.step == killed_in_epoch:
            raise KilledError

    context = make_context(report=report_until_killed)
    with pytest.raises(KilledError):
        fit(small_resnet(), images, loss, schedule, context)

    torch.rand(3)  # the resumed process has another global random state
    resumed, resumed_records, losses_seen = small_resnet(), [], 0

    def counted_loss(outputs: Tensor, batch: Batch) -> Tensor:
        nonlocal losses_seen
        losses_seen += 1
        return loss(outputs, batch)

    fit(
        resumed,
        images,
        counted_loss,
        schedule,
        make_context(report=resumed_records.append, checkpoints=context.checkpoints),
    )
    assert_same_weights(whole, resumed)
    assert resumed_records == whole_records
    epochs_saved = (killed_in_epoch - 1) // 2 * 2
    assert losses_seen == 3 * (5 - epochs_saved)  # 42 rows are 3 batches; the saved epochs are not done again


def test_fit_does_nothing_more_when_the_checkpoint_is_of_the_last_epoch(
    images: Arrays, make_context: MakeContext
) -> None:
    context = make_context()
    finished = small_resnet()
    fit(finished, images, label_loss("classification"), SGD, context)
    again = small_resnet()
    fit(again, images, lambda outputs, batch: pytest.fail("an epoch was done again"), SGD, context)
    assert_same_weights(finished, again)


@pytest.mark.parametrize("other", ["truncated", "rubbish", "other schedule", "other round", "other network"])
def test_fit_starts_anew_with_a_warning_when_the_checkpoint_is_not_its_own(
    images: Arrays, make_context: MakeContext, caplog: pytest.LogCaptureFixture, other: str
) -> None:
    loss = label_loss("classification")
    fresh = small_resnet()
    fit(fresh, images, loss, SGD, make_context())

    context = make_context()
    schedule = SGD.model_copy(update={"learning_rate": 0.01}) if other == "other schedule" else SGD
    network = resnet((1, 8, 8), 3, width=8, blocks=[1, 1]) if other == "other network" else small_resnet()
    fit(network, images, loss, schedule, context, first_step=6 if other == "other round" else 1)
    data = context.checkpoints.load()
    assert data is not None
    context.checkpoints.save({"truncated": data[:-100], "rubbish": b"\xff" * 64}.get(other, data))

    caplog.clear()
    module = small_resnet()
    fit(module, images, loss, SGD, context)
    assert "training starts anew" in caplog.text
    assert_same_weights(fresh, module)


def test_fit_depends_on_the_seed_alone(images: Arrays, make_context: MakeContext) -> None:
    def trained(seed: int) -> nn.Module:
        module = small_resnet()
        fit(module, images, label_loss("classification"), with_augmentation(SGD), make_context(seed=seed))
        return module

    first = trained(1)
    torch.rand(5)
    assert_same_weights(first, trained(1))
    assert not torch.equal(first.get_parameter("head.weight"), trained(2).get_parameter("head.weight"))


def test_fit_leaves_the_global_random_state_as_it_was(images: Arrays, make_context: MakeContext) -> None:
    before = torch.get_rng_state()
    fit(small_resnet(), images, label_loss("classification"), SGD, make_context())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("limit", "micro_batch"), [(1, None), (3, None), (7, 12), (64, 5), (None, 3), (None, 64)])
def test_fit_accumulates_the_gradient_of_the_whole_batch_when_fewer_rows_run_at_once(
    make_context: MakeContext, limit: int | None, micro_batch: int | None
) -> None:
    generator = np.random.default_rng(2)
    split = Arrays(generator.normal(size=(23, 4)), generator.integers(0, 3, 23))
    sizes = []

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        sizes.append(len(batch.labels))
        assert torch.equal(batch.inputs, torch.from_numpy(split.x)[batch.rows])
        return label_loss("classification")(outputs, batch)

    def trained(micro_batch_limit: int | None, micro_batch: int | None) -> nn.Module:
        torch.manual_seed(0)
        module = nn.Linear(4, 3).double()
        schedule = SGD.model_copy(update={"micro_batch": micro_batch})
        fit(module, split, loss, schedule, make_context(micro_batch_limit=micro_batch_limit))
        return module

    whole = trained(None, None)
    sizes.clear()
    torch.testing.assert_close(trained(limit, micro_batch).state_dict(), whole.state_dict(), rtol=1e-12, atol=1e-12)
    assert max(sizes) <= max(min(limit or 64, micro_batch or 64), 3)
    # two rows at least, and an odd batch has one part of three
    assert min(sizes) >= 2


@pytest.mark.parametrize("num_rows", [33, 32, 34, 3])
def test_fit_shows_every_row_once_an_epoch_in_batches_of_two_at_least(make_context: MakeContext, num_rows: int) -> None:
    generator = np.random.default_rng(3)
    split = Arrays(generator.normal(size=(num_rows, 2)).astype(np.float32), np.zeros(num_rows, dtype=np.int64))
    batches: list[list[int]] = []

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        batches.append(batch.rows.tolist())
        return label_loss("classification")(outputs, batch)

    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    fit(module, split, loss, Schedule(epochs=2, batch_size=16), make_context())
    half = len(batches) // 2
    for epoch in (batches[:half], batches[half:]):
        assert sorted(row for rows in epoch for row in rows) == list(range(num_rows))
        assert min(len(rows) for rows in epoch) >= 2
    assert batches[:half] != batches[half:]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_fit_names_epoch_loss_and_remedy_when_the_loss_is_not_finite(
    images: Arrays, make_context: MakeContext, value: float
) -> None:
    steps = 0

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        nonlocal steps
        steps += 1
        return outputs.sum() * (value if steps > 3 else 1.0)  # 3 batches an epoch

    with pytest.raises(
        TechniqueError, match=r"epoch 2 of 5: the loss is -?(nan|inf) .* lower learning_rate \(now 0.05\)"
    ):
        fit(small_resnet(), images, loss, SGD, make_context())


def test_fit_leaves_frozen_parameters_as_they_are(images: Arrays, make_context: MakeContext) -> None:
    module = small_resnet()
    stem = module.get_parameter("stem.conv.weight").requires_grad_(False)
    before = stem.detach().clone()
    fit(module, images, label_loss("classification"), ADAMW, make_context())
    assert torch.equal(stem, before)


def test_fit_refuses_a_network_with_nothing_to_train(images: Arrays, make_context: MakeContext) -> None:
    with pytest.raises(TechniqueError, match="no trainable parameter"):
        fit(nn.Flatten(), images, label_loss("classification"), SGD, make_context())


def test_fit_refuses_a_split_of_one_row(images: Arrays, make_context: MakeContext) -> None:
    with pytest.raises(TechniqueError, match="at least 2 rows"):
        fit(small_resnet(), Arrays(images.x[:1], images.y[:1]), label_loss("classification"), SGD, make_context())


def test_make_optimizer_decays_only_matrices_and_kernels() -> None:
    optimizer = make_optimizer(small_resnet(), Schedule(weight_decay=0.25))
    decays = {
        parameter.ndim >= 2: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert decays == {True: 0.25, False: 0.0}


def test_device_for_is_the_cpu_when_no_gpu_was_asked_for() -> None:
    assert device_for(0.0) == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fit_ends_bit_identical_on_a_gpu_when_it_was_killed_and_resumed(
    images: Arrays, make_context: MakeContext
) -> None:
    loss, schedule = label_loss("classification"), with_augmentation(ADAMW)
    whole = small_resnet()
    fit(whole, images, loss, schedule, make_context(), device=device_for(1.0))

    def killed(record: EpochRecord) -> None:
        if record.step == 4:
            raise KilledError

    context = make_context(report=killed)
    with pytest.raises(KilledError):
        fit(small_resnet(), images, loss, schedule, context, device="cuda")
    resumed = small_resnet()
    fit(resumed, images, loss, schedule, make_context(checkpoints=context.checkpoints), device="cuda")
    assert_same_weights(whole, resumed)


def test_label_loss_blends_the_losses_against_both_labels() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    own, partners = torch.tensor([0, 1]), torch.tensor([1, 1])
    batch = Batch(torch.zeros(2, 1), own, torch.arange(2), partner_labels=partners, own_share=0.7)
    loss = label_loss("classification")
    expected = 0.7 * functional.cross_entropy(logits, own) + 0.3 * functional.cross_entropy(logits, partners)
    torch.testing.assert_close(loss(logits, batch), expected)


class Recorder:
    """A loss that remembers what it was shown."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        self.batches.append(batch)
        return label_loss("classification")(outputs, batch)


def varied(**augmentation: object) -> Schedule:
    return Schedule.model_validate({"epochs": 4, "batch_size": 10, "augmentation": augmentation})


def test_fit_shows_a_row_only_in_its_fixed_views_and_each_of_them_in_turn(
    images: Arrays, make_context: MakeContext
) -> None:
    recorder = Recorder()
    fit(small_resnet(), images, recorder, varied(shift_pixels=2, num_views=2), make_context())
    seen: dict[int, dict[int, set[bytes]]] = {}
    for batch in recorder.batches:
        assert batch.views is not None
        for row, view, pixels in zip(batch.rows.tolist(), batch.views.tolist(), batch.inputs, strict=True):
            seen.setdefault(row, {}).setdefault(view, set()).add(pixels.numpy().tobytes())
    assert len(seen) == len(images.y)
    assert all(views.keys() == {0, 1} and all(len(ways) == 1 for ways in views.values()) for views in seen.values())
    assert any(views[0] != views[1] for views in seen.values())


def test_fit_blends_rows_with_partners_of_their_own_batch(images: Arrays, make_context: MakeContext) -> None:
    recorder = Recorder()
    fit(small_resnet(), images, recorder, varied(mixup=1.0), make_context())
    shares = {batch.own_share for batch in recorder.batches}
    assert len(shares) > 1
    batch = next(batch for batch in recorder.batches if batch.own_share < 0.95)
    assert batch.partner_labels is not None
    assert sorted(batch.partner_labels.tolist()) == sorted(batch.labels.tolist())
    assert not np.array_equal(batch.inputs.numpy(), images.x[batch.rows.numpy()])


@pytest.mark.parametrize("augmentation", [{"mixup": 0.5}, {"shift_pixels": 1, "num_views": 3}], ids=["mixup", "views"])
def test_fit_gives_the_same_weights_when_it_is_killed_and_goes_on_with(
    augmentation: dict[str, object], images: Arrays, make_context: MakeContext
) -> None:
    schedule = Schedule.model_validate(
        {"epochs": 4, "batch_size": 10, "checkpoint_every": 1} | {"augmentation": augmentation}
    )
    whole, resumed = small_resnet(), small_resnet()
    fit(whole, images, label_loss("classification"), schedule, make_context())
    context = make_context()

    def killed_in_epoch_3(record: EpochRecord) -> None:
        if record.step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        fit(resumed, images, label_loss("classification"), schedule, replace(context, report=killed_in_epoch_3))
    resumed = small_resnet()
    fit(resumed, images, label_loss("classification"), schedule, context)
    assert_same_weights(whole, resumed)


def test_fit_calls_before_step_once_for_every_step_of_the_whole_training(
    images: Arrays, make_context: MakeContext
) -> None:
    calls: list[tuple[int, int]] = []
    schedule = Schedule(epochs=3, batch_size=20)
    loss = label_loss("classification")
    fit(small_resnet(), images, loss, schedule, make_context(), before_step=lambda *step: calls.append(step))
    assert calls == [(step, 9) for step in range(9)]  # 42 rows in batches of 20


@pytest.mark.parametrize(("width", "in_that_order"), [(4, False), (8, True)])
def test_fit_learns_the_same_to_rounding_and_gives_plain_weights_with_channels_last(
    images: Arrays, make_context: MakeContext, width: int, in_that_order: bool
) -> None:
    plain, last = small_resnet(width), small_resnet(width)
    schedule = Schedule(epochs=1, batch_size=20)
    fit(plain, images, label_loss("classification"), schedule, make_context())
    orders = []
    last.get_submodule("stages.1").register_forward_pre_hook(
        lambda _, given: orders.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    schedule = Schedule(epochs=1, batch_size=20, channels_last=True)
    fit(last, images, label_loss("classification"), schedule, make_context())
    assert set(orders) == {in_that_order}
    for name, tensor in last.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=1e-2, atol=1e-3)
        assert tensor.is_contiguous(), name


def test_fit_refuses_channels_last_when_the_rows_are_no_images(make_context: MakeContext) -> None:
    rows = Arrays(np.zeros((4, 3), np.float32), np.zeros(4, np.int64))
    with pytest.raises(TechniqueError, match="channels_last needs images"):
        fit(nn.Linear(3, 3), rows, label_loss("classification"), Schedule(channels_last=True), make_context())


@pytest.mark.parametrize("left", ["precision", "channels_last", "compile", "micro_batch"])
def test_fit_refuses_a_schedule_that_leaves_its_form_open(images: Arrays, make_context: MakeContext, left: str) -> None:
    schedule = Schedule.model_validate({"epochs": 1, left: "auto"})
    with pytest.raises(TechniqueError, match=f"{left} auto.*a run settles this by a probe"):
        fit(small_resnet(), images, label_loss("classification"), schedule, make_context())
