import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.contracts.errors import OutOfMemoryError, TechniqueError
from tasks.contracts.resources import Resources
from tasks.runtime import stage
from tasks.runtime.stage import effect_task, run_stage, run_training_stage


def test_an_effect_is_tried_again_for_as_long_as_a_service_takes_to_restart() -> None:
    effect = effect_task(lambda: None)

    assert isinstance(effect.retry_delay_seconds, list)
    shortest_s = sum(effect.retry_delay_seconds) * (1.0 - effect.retry_jitter_factor)
    assert len(effect.retry_delay_seconds) == effect.retries
    assert shortest_s > 60.0, "the minute that docs/deployment.md gives a server for its restart"


@pytest.mark.parametrize(("options", "expected"), [({}, "cluster"), ({"at_home": True}, "this machine")])
def test_a_stage_that_needs_files_of_the_flows_machine_is_not_sent_away(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: str
) -> None:
    places = SimpleNamespace(placement="cluster", home_placement="this machine")
    monkeypatch.setattr(stage, "connect", lambda: places)
    monkeypatch.setattr(stage, "_current_modules", lambda: ())
    monkeypatch.setattr(stage, "run_placed", lambda placement, *_, **__: placement)
    assert run_stage(lambda: "made", **options) == expected


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fetch", {"source": None, "revision": "r", "seed": 0}),
        ("publish", {"model_name": "m", "source": None, "seed": 0, "min_rows": 1, "now": "n"}),
    ],
)
def test_what_reads_and_writes_the_checkout_stays_with_it(
    monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, Any]
) -> None:
    module = importlib.import_module(f"tasks.{name}")
    monkeypatch.setattr(module, "run_stage", lambda *_, **given: given["at_home"])
    assert getattr(module, name).fn(**arguments) is True


class Worker:
    """Where so many rows fit at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[int | None] = []

    def run(self, *_: Any, micro_batch_limit: int | None, **__: Any) -> str:
        self.asked.append(micro_batch_limit)
        if micro_batch_limit is None or micro_batch_limit > self.room:
            raise OutOfMemoryError(f"no room for {micro_batch_limit} rows")
        return "trained"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call `run_training_stage` outside of a flow, on a worker."""
    monkeypatch.setattr(stage, "connect", lambda: SimpleNamespace(placement=None))
    monkeypatch.setattr(stage, "ProgressArtifact", lambda *_: None)

    def call(worker: Worker, batch_size: int) -> str:
        monkeypatch.setattr(stage, "run_placed", worker.run)
        return run_training_stage(
            lambda: "trained",
            resources=Resources(),
            num_threads=1,
            planned_epochs=1,
            batch_size=batch_size,
            label="small: distil",
        )

    return call


@pytest.mark.parametrize(
    ("batch_size", "room", "asked"),
    [(1024, 300, [None, 512, 256]), (64, 40, [None, 128, 64, 32]), (0, 100, [None, 128, 64])],
)
def test_run_training_stage_halves_the_rows_at_once_until_they_fit(
    train: Any, batch_size: int, room: int, asked: list[int | None]
) -> None:
    worker = Worker(room)
    assert train(worker, batch_size) == "trained"
    assert worker.asked == asked


def test_run_training_stage_gives_up_when_not_even_one_row_fits(train: Any) -> None:
    worker = Worker(room=0)
    with pytest.raises(TechniqueError, match="small: distil runs out of memory even with one row at a time"):
        train(worker, 256)
    assert worker.asked == [None, 128, 64, 32, 16, 8, 4, 2, 1]
