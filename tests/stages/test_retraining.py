from datetime import UTC, datetime, timedelta

import pytest

from tasks.contracts.errors import DataError, InfrastructureError, ModelError, RetrainingRefusedError
from tasks.contracts.retraining import RetrainingEntry
from tasks.contracts.route import Arm
from tasks.decisions import rollout
from tasks.decisions.retraining import RetrainingPolicy
from tasks.decisions.rollout import RolloutPolicy
from tasks.stages.retraining import (
    concluded,
    current_champion,
    read_record,
    record_entry,
    require_turn,
    unfinished,
)
from tasks.stages.rollout_record import RolloutRecord, append_record

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
POLICY = RetrainingPolicy(cooldown_hours=24, max_per_week=2)


def entry(days_ago=0.0, **changes):
    started = (NOW - timedelta(days=days_ago)).isoformat()
    values = {"plan": "p.yaml", "reason": "drift", "champion": "c" * 64, "data_revision": "r", "started_at": started}
    return RetrainingEntry(**(values | changes))


def test_require_turn_counts_what_was_recorded_whatever_came_of_it(services):
    require_turn(services, "m", POLICY, NOW)
    record_entry(services, "m", entry(2, outcome="failed: bad"))
    require_turn(services, "m", POLICY, NOW)
    record_entry(services, "m", entry(0.5, outcome="promoted"))

    with pytest.raises(RetrainingRefusedError, match=r"m is not trained anew: 2 retrainings .*max_per_week is 2"):
        require_turn(services, "m", POLICY, NOW)
    with pytest.raises(RetrainingRefusedError, match=r"cooldown_hours is 24; the next may start at 2026-03-21T00"):
        require_turn(services, "m", POLICY.model_copy(update={"max_per_week": 3}), NOW)
    require_turn(services, "other", POLICY, NOW)


def test_require_turn_waits_for_a_running_rollout(services):
    arms = (Arm(digest="a" * 64, version=1), Arm(digest="b" * 64, version=2))
    state = rollout.start("r1", "m", *arms, RolloutPolicy(), NOW.isoformat())
    append_record(services, RolloutRecord(state=state, gate_report="0" * 64, weights={}))

    with pytest.raises(RetrainingRefusedError, match=r"version 2 of m is being rolled out.*rollout abort m"):
        require_turn(services, "m", POLICY, NOW)


def test_concluded_records_the_begin_the_outcome_and_a_failure(services):
    with concluded(services, "m", entry(1)) as conclude:
        assert [one.outcome for one in read_record(services, "m").entries] == [None]
        conclude("promoted")
    with pytest.raises(DataError), concluded(services, "m", entry()):
        raise DataError("rows leak")

    assert [one.outcome for one in read_record(services, "m").entries] == ["promoted", "failed: rows leak"]


def test_a_retraining_that_infrastructure_cut_off_is_gone_on_with(services):
    with pytest.raises(InfrastructureError), concluded(services, "m", entry()):
        raise InfrastructureError("no network")

    assert unfinished(services, "m", "p.yaml", "c" * 64) == entry()


@pytest.mark.parametrize(
    ("plan", "champion", "outcome"),
    [
        ("p.yaml", "d" * 64, "its process died, and another champion came"),
        ("q.yaml", "c" * 64, "its process died, and another plan was asked for"),
    ],
)
def test_a_retraining_that_died_is_closed_when_it_cannot_be_gone_on_with(services, plan, champion, outcome):
    record_entry(services, "m", entry())

    assert unfinished(services, "m", plan, champion) is None
    assert read_record(services, "m").entries[-1].outcome == outcome
    assert unfinished(services, "m", "p.yaml", "c" * 64) is None


def test_current_champion_says_how_to_get_the_first(services):
    with pytest.raises(ModelError, match="model m has no champion to do better than; `stillhouse run PLAN`"):
        current_champion(services, "m")
