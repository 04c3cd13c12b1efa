from collections.abc import Callable

import pytest

from tasks.contracts.model import Architecture, EpochRecord
from tasks.techniques.distillation.distill_data_free import DistillDataFree
from tasks.techniques.distillation.distill_features import DistillFeatures
from tasks.techniques.distillation.distill_mutual import DistillMutual
from tasks.techniques.distillation.distill_self import DistillSelf
from tasks.techniques.distillation.phases import run_phases
from tasks.techniques.technique import Applied, StageContext, TechniqueSpec

MakeContext = Callable[..., StageContext]

SCHEDULE = {"epochs": 2, "batch_size": 16, "checkpoint_every": 1, "augmentation": {"shift_pixels": 1}}
STUDENT = Architecture(
    factory="tasks.models.resnet:resnet", kwargs={"width": 4, "blocks": [1], "dropout": 0.2}
)  # fmt: skip
SPECS: dict[str, TechniqueSpec] = {
    "features": DistillFeatures.model_validate({"student": STUDENT, "schedule": SCHEDULE, "hint_epochs": 2}),
    "self": DistillSelf.model_validate(
        {"schedule": {"epochs": 6, "batch_size": 8, "learning_rate": 1e-2, "checkpoint_every": 3}, "generations": 2}
    ),
    "mutual": DistillMutual.model_validate({"student": STUDENT, "schedule": SCHEDULE}),
    "data_free": DistillDataFree.model_validate(
        {"student": STUDENT, "schedule": SCHEDULE, "synthesis": {"num_rows": 32, "batch_size": 16, "steps": 3}}
    ),
}
NUM_SAVES = {"features": 5, "self": 5, "mutual": 2, "data_free": 3}
"""Two for each training, and one at the start of a second phase."""


class KilledError(Exception):
    """Stands for the end of the process."""


class MortalStore:
    """A checkpoint store whose process dies just before or just after one of its writes."""

    def __init__(self, surviving_saves: int, *, writes_the_last: bool) -> None:
        self.data: bytes | None = None
        self._left = surviving_saves
        self._writes_the_last = writes_the_last

    def save(self, data: bytes) -> None:
        if self._left or self._writes_the_last:
            self.data = data
        if not self._left:
            raise KilledError
        self._left -= 1

    def load(self) -> bytes | None:
        return self.data

    def revive(self) -> None:
        self._left = 100


@pytest.fixture(scope="module")
def uninterrupted(teacher: bytes, make_context: MakeContext) -> dict[str, tuple[Applied, list[EpochRecord]]]:
    """Return what comes out when nothing is killed, and the history."""
    results = {}
    for name, spec in SPECS.items():
        history: list[EpochRecord] = []
        context = make_context(load_baseline=lambda: teacher, report=history.append)
        results[name] = (spec.apply(teacher, context), history)
    return results


@pytest.mark.parametrize(
    ("name", "surviving_saves", "writes_the_last"),
    [
        *((name, saves, True) for name, total in NUM_SAVES.items() for saves in range(total)),
        ("features", 3, False),
        ("self", 2, False),
        ("data_free", 0, False),
    ],
)
def test_apply_ends_with_the_same_weights_and_history_when_it_was_killed(
    name: str,
    surviving_saves: int,
    writes_the_last: bool,
    teacher: bytes,
    make_context: MakeContext,
    uninterrupted: dict[str, tuple[Applied, list[EpochRecord]]],
) -> None:
    expected, full = uninterrupted[name]
    store = MortalStore(surviving_saves, writes_the_last=writes_the_last)
    with pytest.raises(KilledError):
        SPECS[name].apply(teacher, make_context(checkpoints=store, load_baseline=lambda: teacher))
    store.revive()
    history: list[EpochRecord] = []
    context = make_context(checkpoints=store, load_baseline=lambda: teacher, report=history.append)
    resumed = SPECS[name].apply(teacher, context)
    assert resumed.model == expected.model
    assert resumed.details == expected.details
    assert history == full


def test_run_phases_hands_on_what_each_phase_makes_and_begins_with_the_one_that_was_interrupted(
    make_context: MakeContext,
) -> None:
    calls: list[tuple[bytes, int]] = []

    def phase(made: bytes, context: StageContext, first_step: int) -> bytes:
        calls.append((made, first_step))
        assert context.checkpoints.load() is None  # nothing was trained in it before
        context.report(EpochRecord(step=first_step, metrics={"loss": 0.5}))
        return made + b"!"

    def last(made: bytes, context: StageContext, first_step: int) -> bytes:
        if not killed:
            killed.append(True)
            raise KilledError
        return phase(made, context, first_step)

    killed: list[bool] = []
    history: list[EpochRecord] = []
    context = make_context(report=history.append)
    with pytest.raises(KilledError):
        run_phases([phase, phase, last], b"a", context)
    assert calls == [(b"a", 1), (b"a!", 2)]
    history.clear()
    assert run_phases([phase, phase, last], b"a", context) == b"a!!!"
    assert calls[2:] == [(b"a!!", 3)]
    assert [record.step for record in history] == [1, 2, 3]
