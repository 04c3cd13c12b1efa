"""States that a former version recorded, before steps had waits and people could give orders."""

import json
from pathlib import Path

import pytest

from tasks.decisions.experiment import Observation
from tasks.decisions.rollout import RolloutState, abort, resume, tick

FORMER = (Path(__file__).parent / "golden" / "rollout_states.jsonl").read_text().splitlines()


@pytest.mark.parametrize("line", FORMER, ids=lambda line: json.loads(line)["status"])
def test_state_of_a_former_version_reads_and_says_the_same(line):
    recorded, state = json.loads(line), RolloutState.model_validate_json(line)

    again = json.loads(state.canonical_json())
    for arm in ("champion", "challenger"):
        assert again[arm].pop("run_id") == "", "nobody wrote down which run made it"

    assert {name: again[name] for name in recorded.keys() - {"latest", "history"}} == {
        name: value for name, value in recorded.items() if name not in ("latest", "history")
    }
    assert [one["reason"] for one in again["history"]] == [one["reason"] for one in recorded["history"]]
    assert state.policy.weights == tuple(recorded["policy"]["steps"])
    assert (state.waits_passed, state.pausing_since, state.skip) == (0, None, None)


@pytest.mark.parametrize("line", FORMER, ids=lambda line: json.loads(line)["status"])
def test_state_of_a_former_version_goes_on(line):
    state = RolloutState.model_validate_json(line)

    moved, decision = tick(state, Observation(), state.policy, "2026-01-02T00:00:00+00:00")
    resumed = resume(state, "x", "2026-01-02T00:00:00+00:00", "ann")

    assert decision.verdict == (state.latest.verdict if state.finished else "hold")
    assert moved.tick == state.tick + (not state.finished)
    assert (resumed.status == "running") == (state.status in ("running", "paused"))
    assert abort(state, "x", "now").finished
