from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.contracts.data import SpecialTokens
from tasks.contracts.model import Architecture
from tasks.evaluation.machine import computes_bfloat16, instruction_sets
from tasks.models.architecture import Network
from tasks.techniques.augmentation import Augmentation
from tasks.techniques.distillation.distill_decoupled import DistillDecoupled
from tasks.techniques.distillation.distill_ensemble import DistillEnsemble
from tasks.techniques.distillation.distill_response import DistillResponse
from tasks.techniques.distillation.teacher_outputs import TeacherOutputs, distinct_rows
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import Batch
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext, TechniqueSpec
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

STUDENT = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 4, "blocks": [1]})
IDENTITY = Schedule()
SHIFTS = Schedule(augmentation=Augmentation(shift_pixels=1))


class CountedTeacher(nn.Module):
    """A linear teacher that notes how many rows it is shown."""

    rows_seen: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        CountedTeacher.rows_seen += len(x)
        return self.linear(self.flatten(x))


@pytest.fixture
def counted() -> CountedTeacher:
    CountedTeacher.rows_seen = 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CountedTeacher().eval()


def batch_of(images: Arrays, rows: list[int]) -> Batch:
    chosen = torch.tensor(rows)
    return Batch(torch.from_numpy(images.x)[chosen], torch.from_numpy(images.y)[chosen], chosen)


def test_distinct_rows_finds_equal_rows() -> None:
    first, place = distinct_rows(np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0], [3.0, 4.0]]))
    assert first.tolist() == [0, 1, 3]
    assert place.tolist() == [0, 1, 0, 2, 1]


def test_outputs_for_runs_the_teacher_once_over_the_distinct_rows(
    counted: CountedTeacher, images: Arrays, make_context: MakeContext
) -> None:
    twice = Arrays(np.concatenate([images.x, images.x]), np.concatenate([images.y, images.y]))
    answers = TeacherOutputs(counted, twice.x, make_context(), IDENTITY)
    assert CountedTeacher.rows_seen == 0
    for rows in ([3, 45, 0], [41, 83], [3, 3]):
        asked = batch_of(twice, rows)
        with torch.no_grad():
            expected = counted.linear(counted.flatten(asked.inputs))
        torch.testing.assert_close(answers.outputs_for(asked), expected, rtol=1e-5, atol=1e-6)
    assert CountedTeacher.rows_seen == 42
    assert answers.details() == {"teacher_cache_bytes": 42 * 3 * 4 + 84 * 8, "teacher_runs": "once"}


def test_outputs_for_shows_the_teacher_the_view_when_rows_are_varied(
    counted: CountedTeacher, images: Arrays, make_context: MakeContext
) -> None:
    answers = TeacherOutputs(counted, images.x, make_context(), SHIFTS)
    view = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = answers.outputs_for(Batch(view, torch.tensor([0, 1]), torch.tensor([0, 1])))
    torch.testing.assert_close(found, outputs_of(counted, view, 2))
    assert not found.requires_grad
    assert answers.details() == {
        "teacher_cache_bytes": 0,
        "teacher_runs": "on every batch: each epoch shows new views; augmentation.num_views would make them repeat",
    }


def test_outputs_for_runs_the_teacher_once_over_every_rows_views_when_they_repeat(
    counted: CountedTeacher, images: Arrays, make_context: MakeContext
) -> None:
    augmentation = Augmentation(shift_pixels=2, flip_horizontal=True, num_views=3)
    schedule = Schedule(epochs=4, batch_size=10, augmentation=augmentation)
    answers = TeacherOutputs(counted, images.x, make_context(micro_batch_limit=16), schedule)
    assert answers.is_cached
    differences = []

    def loss(outputs_BK: Tensor, batch: Batch) -> Tensor:
        known_BK = answers.outputs_for(batch)
        with torch.no_grad():
            differences.append((known_BK - counted.linear(counted.flatten(batch.inputs))).abs().max().item())
        return outputs_BK.sum()

    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    fit(student, images, loss, schedule, make_context())
    assert CountedTeacher.rows_seen == 3 * len(images.y)
    assert max(differences) < 1e-5
    assert answers.details()["teacher_cache_bytes"] == 3 * len(images.y) * 3 * 4 + 8 * len(images.y)
    assert answers.details()["teacher_runs"] == "once on each of 3 views"


def test_outputs_for_shows_the_teacher_the_texts_with_the_tokens_that_the_student_sees(
    make_context: MakeContext,
) -> None:
    ids = np.random.default_rng(0).integers(1, 20, (24, 6))
    texts = Arrays(ids, np.arange(24) % 3)
    context = make_context(input_shape=(6,), vocab_size=20, special_tokens=SpecialTokens(pad=0))
    teacher = nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(24, 3)).requires_grad_(False).eval()
    schedule = Schedule(epochs=3, batch_size=10, augmentation=Augmentation(token_dropout=0.4, num_views=2))
    answers = TeacherOutputs(teacher, texts.x, context, schedule)
    assert answers.is_cached
    differences, hidden = [], []

    def loss(outputs_BK: Tensor, batch: Batch) -> Tensor:
        hidden.append(batch.inputs.eq(0).float().mean().item())
        differences.append((answers.outputs_for(batch) - teacher(batch.inputs)).abs().max().item())
        return outputs_BK.sum()

    student = nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(24, 3))
    fit(student, texts, loss, schedule, context)
    assert max(differences) < 1e-5
    assert 0.2 < float(np.mean(hidden)) < 0.6


def test_outputs_for_runs_the_teacher_on_every_batch_when_the_outputs_exceed_the_bound(
    counted: CountedTeacher, images: Arrays, make_context: MakeContext
) -> None:
    answers = TeacherOutputs(counted, images.x, make_context(), IDENTITY, cache_mib=0)
    asked = batch_of(images, [5, 2])
    torch.testing.assert_close(answers.outputs_for(asked), outputs_of(counted, asked.inputs, 2))
    answers.outputs_for(asked)
    assert CountedTeacher.rows_seen == 6
    details = answers.details()
    assert details["teacher_cache_bytes"] == 0
    assert details["teacher_runs"] == "on every batch: keeping its outputs takes 0.000801 MiB, over 0 MiB"


def test_is_cached_keeps_what_fills_the_bound_exactly(counted: CountedTeacher, make_context: MakeContext) -> None:
    num_rows = 2**20 // (3 * 4 + 8)
    rows = np.arange(num_rows, dtype=np.float32)[:, None]
    assert TeacherOutputs(counted, rows, make_context(), IDENTITY, cache_mib=1).is_cached
    more = np.arange(num_rows + 1, dtype=np.float32)[:, None]
    assert not TeacherOutputs(counted, more, make_context(), IDENTITY, cache_mib=1).is_cached


@pytest.mark.skipif(computes_bfloat16(instruction_sets()) is False, reason="the processor has no bfloat16")
@pytest.mark.parametrize("cache_mib", [0, 1])
def test_teacher_computes_in_the_precision_of_the_training(
    counted: CountedTeacher, images: Arrays, make_context: MakeContext, cache_mib: int
) -> None:
    schedule = Schedule(precision="bfloat16")
    answers = TeacherOutputs(counted, images.x, make_context(), schedule, cache_mib=cache_mib)
    outputs_BK = answers.outputs_for(batch_of(images, [0, 1]))
    linear, x_BF = counted.linear, torch.from_numpy(images.x[:2]).flatten(1)
    rounded = [tensor.bfloat16().double() for tensor in (x_BF, linear.weight, linear.bias)]
    expected_BK = (rounded[0] @ rounded[1].T + rounded[2]).bfloat16()
    assert outputs_BK.dtype is torch.float32
    torch.testing.assert_close(outputs_BK, expected_BK.float(), rtol=2**-7, atol=1e-3)
    assert torch.equal(outputs_BK, outputs_BK.bfloat16().float())


def test_outputs_for_asks_for_few_rows_at_once_when_memory_is_short(
    counted: CountedTeacher, images: Arrays, make_context: MakeContext
) -> None:
    sizes: list[int] = []
    counted.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    TeacherOutputs(counted, images.x, make_context(micro_batch_limit=10), IDENTITY).outputs_for(batch_of(images, [0]))
    assert sizes == [10, 10, 10, 10, 2]


@pytest.fixture
def counted_baseline(images: Arrays, make_context: MakeContext) -> bytes:
    network = Network.create(Architecture(factory=f"{__name__}:CountedTeacher"), seed=0)

    def squared(outputs: Tensor, batch: Batch) -> Tensor:
        return (outputs - nn.functional.one_hot(batch.labels, 3)).square().mean()

    fit(network.module, images, squared, Schedule(epochs=20, batch_size=8, learning_rate=0.01), make_context())
    CountedTeacher.rows_seen = 0
    return network.to_bytes()


@pytest.mark.parametrize("technique", [DistillResponse, DistillDecoupled])
@pytest.mark.parametrize(
    ("varied", "cache_mib", "passes"),
    [({}, 1024, 1), ({}, 0, 3), ({"shift_pixels": 1}, 1024, 3), ({"mixup": 0.5}, 1024, 3)],
)
def test_apply_shows_the_teacher_no_row_more_than_once_per_epoch(
    counted_baseline: bytes,
    make_context: MakeContext,
    technique: type[TechniqueSpec],
    varied: dict[str, float],
    cache_mib: int,
    passes: int,
) -> None:
    schedule = {"epochs": 3, "batch_size": 16, "augmentation": varied}
    spec = technique.model_validate({"student": STUDENT, "schedule": schedule, "teacher_cache_mib": cache_mib})
    applied = spec.apply(b"", make_context(load_baseline=lambda: counted_baseline))
    assert CountedTeacher.rows_seen == 12 + 42 * passes  # the calibration rows, then the train split
    assert (applied.details["teacher_runs"] == "once") == (passes == 1)


@pytest.mark.parametrize(("varied", "asked"), [({}, 42), ({"shift_pixels": 1}, 42 * 3 * 10)])
def test_apply_of_an_ensemble_asks_the_baseline_for_all_members_at_once_where_it_can(
    counted_baseline: bytes, make_context: MakeContext, varied: dict[str, int], asked: int
) -> None:
    members = {"epochs": 10, "batch_size": 8, "augmentation": varied}
    spec = DistillEnsemble.model_validate(
        {"student": STUDENT, "num_members": 3, "member_schedule": members, "schedule": {"epochs": 1}}
    )
    spec.apply(b"", make_context(load_baseline=lambda: counted_baseline))
    assert CountedTeacher.rows_seen == 12 + asked


@pytest.mark.parametrize("technique", [DistillResponse, DistillDecoupled])
def test_apply_leaves_the_teachers_bytes_as_they_were(
    teacher: bytes, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, technique: type[TechniqueSpec]
) -> None:
    loaded: list[Network] = []
    rebuild = Network.from_bytes

    def noted(data: bytes) -> Network:
        loaded.append(rebuild(data))
        return loaded[-1]

    monkeypatch.setattr(Network, "from_bytes", noted)
    schedule = {"epochs": 2, "batch_size": 16, "augmentation": {"shift_pixels": 1}}
    spec = technique.model_validate({"student": STUDENT, "schedule": schedule})
    spec.apply(b"", make_context(load_baseline=lambda: teacher))
    assert len(loaded) == 1
    assert loaded[0].to_bytes() == teacher
    assert not any(parameter.requires_grad for parameter in loaded[0].module.parameters())
