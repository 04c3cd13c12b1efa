"""A search on a small plan: it draws the same after it was killed, and what it finds is judged without new stages."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import SMALL_PLAN, Stillhouse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SEARCH = {
    "space": {
        "student": {
            "0.temperature": {"low": 3, "high": 20, "log": True},
            "0.student.kwargs.hidden": {"choices": [[16], [32], [48]]},
        }
    },
    "trials": 6,
    "at_once": 2,
    "finalists": 2,
}


@pytest.fixture
def plan(stillhouse: Stillhouse) -> Path:
    path = stillhouse.project / "searched.yaml"
    path.write_text(yaml.safe_dump(SMALL_PLAN | {"search": SEARCH}))
    return path


def tried(record: Path) -> list[dict[str, Any]]:
    """Return the trials of a record, without how long they took."""
    return [trial | {"seconds": 0.0} for trial in json.loads(record.read_text())["trials"]]


def test_a_killed_search_goes_on_and_what_it_finds_is_judged_from_the_cache(stillhouse: Stillhouse, plan: Path) -> None:
    search = stillhouse.start("search", str(plan))
    scores = stillhouse.home / "store" / "stages" / "score"
    deadline = time.monotonic() + 600
    while not (scores.is_dir() and len(list(scores.iterdir())) >= 4):  # the baseline's, and three trials'
        assert time.monotonic() < deadline, search.poll()
        assert search.poll() is None, search.communicate()[0]
        time.sleep(0.05)
    os.killpg(search.pid, signal.SIGKILL)
    search.communicate(timeout=60)
    done = {path.name: path.stat().st_ino for path in scores.iterdir()}

    found, record = stillhouse.project / "found.yaml", stillhouse.project / "search.json"
    stillhouse.call("search", str(plan), "--out", str(found), "--json", str(record))
    after = {path.name: path.stat().st_ino for path in scores.iterdir()}
    assert done.items() <= after.items(), "what was finished was not computed again"
    assert len(tried(record)) == 6

    elsewhere, again = replace(stillhouse, home=stillhouse.project / "other"), stillhouse.project / "again.json"
    elsewhere.call("search", str(plan), "--json", str(again))
    assert tried(again) == tried(record), "a search that nobody killed draws and finds the same"

    finalists = json.loads(record.read_text())["finalists"]
    assert finalists
    judged = stillhouse.run(found, "--no-rollout")
    assert [one["name"] for one in judged["candidates"]] == [f"student-{number}" for number in finalists]
    assert all(stage["cached"] for one in judged["candidates"] for stage in one["stages"])
    assert judged["chosen"] is not None


def test_a_search_whose_space_has_nothing_within_the_limits_says_so_with_exit_code_1(
    stillhouse: Stillhouse, plan: Path
) -> None:
    narrow = ("--set", "constraints.max_size_bytes=100", "--set", "search.trials=2")
    told = " ".join(stillhouse.call("search", str(plan), *narrow, code=1).split())
    assert "2 chains tried, 0 within the plan's limits" in told
    assert "over the allowed size" in told
