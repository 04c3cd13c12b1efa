import threading
from pathlib import Path

import pytest

from tasks.adapters.locks import FileLocks
from tasks.contracts.errors import RunStoppedError
from tasks.runtime import isolation
from tasks.runtime.gpus import LocalGpus


class Stage:
    """A stage that takes GPUs in a thread of its own and keeps them until it is let go."""

    def __init__(self, gpus: LocalGpus, share: float, size: int = 1) -> None:
        self.has: list[str] | None = None
        self._begun, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(gpus, share, size))
        self._thread.start()

    def _run(self, gpus: LocalGpus, share: float, size: int) -> None:
        with gpus.taken(share, size, "a stage") as devices:
            self.has = devices
            self._begun.set()
            self._over.wait(20)

    def begun(self) -> list[str] | None:
        assert self._begun.wait(20), "it never began"
        return self.has

    @property
    def waits(self) -> bool:
        return not self._begun.wait(0.05)

    def end(self) -> None:
        self._over.set()
        self._thread.join(20)


def test_two_stages_that_ask_for_a_whole_gpu_have_one_each_and_the_third_waits():
    gpus = LocalGpus(["0", "GPU-5e"])
    stages = [Stage(gpus, 1), Stage(gpus, 1)]
    assert sorted(stage.begun() for stage in stages) == [["0"], ["GPU-5e"]]

    third = Stage(gpus, 1)
    assert third.waits
    stages[1].end()
    assert third.begun() == stages[1].has
    for stage in (stages[0], third):
        stage.end()


def test_stages_share_a_gpu_up_to_the_whole_of_it():
    gpus = LocalGpus(["0"])
    parts = [Stage(gpus, 1 / 3) for _ in range(3)]
    assert [stage.begun() for stage in parts] == [["0"]] * 3

    whole = Stage(gpus, 1)
    parts[0].end()
    assert whole.waits
    for stage in parts[1:]:
        stage.end()
    assert whole.begun() == ["0"]
    whole.end()


@pytest.mark.parametrize(
    ("share", "size", "seen"),
    [
        (2, 1, ["0,1"]),
        (1, 3, ["0", "1", "2"]),
        (0.5, 2, ["0", "1"]),  # a crew's processes have a device each
        (9, 1, ["0,1,2"]),  # more than there are is all
        (0, 1, []),
    ],
)
def test_taken_says_what_each_process_is_to_see(share, size, seen):
    with LocalGpus(["0", "1", "2"]).taken(share, size, "a stage") as devices:
        assert devices == seen


def test_a_machine_without_gpus_makes_nobody_wait():
    gpus = LocalGpus([])
    with gpus.taken(1, 1, "one") as first, gpus.taken(1, 1, "other") as second:
        assert (first, second, gpus.room(1)) == ([], [], 0)


def test_a_gpu_is_one_runs_at_a_time_on_a_host(tmp_path: Path):
    one, other = (LocalGpus(["0", "1"], FileLocks(tmp_path)) for _ in range(2))
    with one.taken(0.5, 1, "a stage") as mine, one.taken(1, 1, "b stage") as more:
        assert sorted([*mine, *more]) == ["0", "1"]
        stranger = Stage(other, 0.5)
        assert stranger.waits
    assert stranger.begun() in (["0"], ["1"])
    with one.taken(1, 1, "c stage") as left:
        assert left != stranger.has
    stranger.end()


def test_what_cannot_be_had_whole_is_not_held_meanwhile(tmp_path: Path):
    one, other = (LocalGpus(["0", "1"], FileLocks(tmp_path)) for _ in range(2))
    with one.taken(1, 1, "a stage") as (mine,):
        both = Stage(other, 1, size=2)
        assert both.waits
        with one.taken(1, 1, "b stage") as (second,):
            assert {mine, second} == {"0", "1"}
    assert both.begun() == ["0", "1"]
    both.end()


def test_a_stage_that_waits_ends_with_its_run(monkeypatch):
    gpus = LocalGpus(["0"])
    stopping = threading.Event()
    monkeypatch.setattr(isolation, "_stopping", stopping)
    with gpus.taken(1, 1, "a stage"):
        stopping.set()
        with pytest.raises(RunStoppedError, match="b stage"), gpus.taken(1, 1, "b stage"):
            pytest.fail("it began")
