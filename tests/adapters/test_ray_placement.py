import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.adapters import ray_board
from tasks.adapters.ray_board import Notes
from tasks.adapters.ray_resources import options_of, target_resource
from tasks.contracts.resources import Resources
from tasks.runtime.isolation import StageCall

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


def test_a_call_is_placed_by_what_its_technique_declares() -> None:
    wanted = Resources(num_gpus=0.5, memory_gib=2.0, custom={"licence": 1})
    options = options_of(StageCall(function="a:b", arguments={}, num_threads=3, resources=wanted))

    assert options == {
        "num_cpus": 3,
        "num_gpus": 0.5,
        "memory": 2 * 2**30,
        "resources": {"licence": 1},
        "max_retries": 0,
        "name": "a:b",
    }


def test_a_call_that_measures_takes_a_node_that_has_no_cpus_to_give() -> None:
    options = options_of(StageCall(function="a:b", arguments={}, num_threads=2, target="phone"))

    assert options["num_cpus"] == 0
    assert options["resources"] == {target_resource("phone"): 1.0}
    assert options["memory"] is None, "0 GiB means any, which Ray does not take for an amount"


class Board:
    """What an actor looks like from its flow; `asked` counts the calls."""

    def __init__(self) -> None:
        self.kept: dict[str, list[dict[str, Any]]] = {}
        self.asked = 0
        self.forgotten: list[str] = []
        self.take = SimpleNamespace(remote=self._take)
        self.forget = SimpleNamespace(remote=self.forgotten.append)

    def _take(self) -> dict[str, list[dict[str, Any]]]:
        self.asked += 1
        taken, self.kept = self.kept, {}
        return taken


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def notes(board: Board, monkeypatch: pytest.MonkeyPatch) -> Notes:
    """Notes of a flow whose clock stands still."""
    monkeypatch.setattr(ray_board, "time", SimpleNamespace(monotonic=lambda: 0.0))
    return Notes(SimpleNamespace(get=lambda answer: answer), board)


def test_notes_are_fetched_once_a_second_for_all_stages_of_a_flow(
    notes: Notes, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = [notes.new_ticket() for _ in range(3)]
    board.kept = {tickets[0]: [{"host": "a"}], tickets[2]: [{"host": "b"}, {"host": "b"}]}
    assert [notes.take(ticket, at_once=False) for ticket in tickets] == [[], [], []]
    assert board.asked == 0, "a second has not passed"
    monkeypatch.setattr(ray_board, "time", SimpleNamespace(monotonic=lambda: 1.0))
    taken = [notes.take(ticket, at_once=False) for ticket in tickets]
    assert taken == [[{"host": "a"}], [], [{"host": "b"}, {"host": "b"}]]
    assert board.asked == 1
    assert notes.take(tickets[0], at_once=False) == [], "they are handed over once"


def test_notes_are_fetched_at_once_for_a_stage_that_is_done(notes: Notes, board: Board) -> None:
    done, running = notes.new_ticket(), notes.new_ticket()
    board.kept = {done: [{"progress": 1}], running: [{"progress": 2}]}
    assert notes.take(done, at_once=True) == [{"progress": 1}]
    assert notes.take(running, at_once=False) == [{"progress": 2}], "what came with it is not lost"


def test_notes_of_a_stage_that_is_forgotten_are_kept_nowhere(notes: Notes, board: Board) -> None:
    gone, running = notes.new_ticket(), notes.new_ticket()
    notes.forget(gone)
    board.kept = {gone: [{"progress": 1}], running: [{"progress": 2}]}
    assert notes.take(running, at_once=True) == [{"progress": 2}]
    assert board.forgotten == [gone]
    assert set(notes._by_ticket) == {running}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        pytest.skip("needs the right to make a network namespace: Ray listens on every interface")
    folder = tmp_path_factory.mktemp("cluster")
    script = f'ip link set lo up && exec "{sys.executable}" "{_HERE / "ray_scenario.py"}" "{folder}"'
    environment = os.environ | {
        "PYTHONPATH": f"{_ROOT}:{_HERE}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "STILLHOUSE_EXECUTION": "ray",
        "STILLHOUSE_HOME": str(folder / "home"),
        "STILLHOUSE_PLACEMENT_TIMEOUT_S": "120",
    }
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script],
        env=environment,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return result


@pytest.mark.slow
@pytest.mark.timeout(1000)  # the cluster is used here first
def test_stages_run_on_workers_that_offer_what_they_need(seen: dict[str, Any]) -> None:
    assert seen["cpu"]["threads"] == "2"
    assert seen["progress"] == [1, 2, 3]
    assert seen["gpu"]["gpus"] == "0"
    assert seen["measured"]["node"] != seen["cpu"]["node"] == seen["gpu"]["node"]


@pytest.mark.slow
def test_whole_gpus_are_taken_in_turn_and_halves_together(seen: dict[str, Any]) -> None:
    assert seen["whole GPUs"] == ["begin", "end", "begin", "end"]
    assert seen["half GPUs 0"] is seen["half GPUs 1"] is True


@pytest.mark.slow
@pytest.mark.parametrize("what", ["killed stage", "killed worker", "lost node"])
def test_a_lost_worker_is_an_error_that_a_retry_heals(seen: dict[str, Any], what: str) -> None:
    assert seen[what].startswith("WorkerLostError: "), seen[what]


@pytest.mark.slow
def test_a_stage_that_no_worker_can_take_says_what_it_asks_for_and_what_there_is(seen: dict[str, Any]) -> None:
    assert "WorkerLostError: no worker took ray_scenario:where within 5 s" in seen["nowhere"]
    assert "1 CPU, 1 moonlight; the cluster has 2 CPU, 1 GPU" in seen["nowhere"]


@pytest.mark.slow
def test_a_stopped_run_ends_its_stages_on_the_workers(seen: dict[str, Any]) -> None:
    assert seen["stopped"] == {
        "outcome": ["ray_scenario:linger was ended because its run was told to stop"],
        "ended": True,
    }


@pytest.mark.slow
def test_a_worker_with_another_store_refuses_the_stage(seen: dict[str, Any]) -> None:
    assert seen["another store"].startswith("WorkerMismatchError: the worker on ")
    assert "set STILLHOUSE_STORE alike" in seen["another store"]


@pytest.mark.slow
def test_processes_that_train_together_find_one_another(seen: dict[str, Any]) -> None:
    assert seen["crew"] == {"sum": 3.0, "size": 2.0}


@pytest.mark.slow
def test_a_crew_is_as_large_as_the_cluster_has_room_for(seen: dict[str, Any]) -> None:
    assert seen["smaller crew"] == {"sum": 1.0, "size": 1.0}, "there is one GPU"


@pytest.mark.slow
def test_a_retry_avoids_the_node_that_failed(seen: dict[str, Any]) -> None:
    assert seen["full, try 1"].startswith("DiskFullError: "), seen["full, try 1"]
    (full,) = seen["full"]
    assert seen["full, try 2"].isdigit(), seen["full, try 2"]
    assert seen["full, try 2"] != full


@pytest.mark.slow
def test_a_retry_of_processes_that_train_together_avoids_the_node_that_failed(seen: dict[str, Any]) -> None:
    assert seen["full for a crew, try 1"].startswith("DiskFullError: "), seen["full for a crew, try 1"]
    assert seen["full for a crew, try 2"] == 2.0, "the other node has room for both"


@pytest.mark.slow
def test_a_retry_goes_where_it_failed_if_no_other_node_can_take_it(seen: dict[str, Any]) -> None:
    for number in (1, 2):
        message = seen[f"full where the only GPU is, try {number}"]
        assert message.startswith("DiskFullError: "), message
