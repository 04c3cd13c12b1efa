from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from tasks.adapters.local_traffic import LocalTraffic
from tasks.contracts.errors import UserError
from tasks.contracts.route import Arm
from tasks.decisions import rollout
from tasks.decisions.rollout import RolloutPolicy
from tasks.stages.pruning_traffic import prune_traffic
from tasks.stages.rollout_record import RolloutRecord
from tests.adapters.traffic_files import NOON, Segments


def record(began, status="running"):
    arms = Arm(digest="a" * 64, version=1), Arm(digest="b" * 64, version=2)
    state = rollout.start("r", "m", *arms, RolloutPolicy(), began.isoformat())
    state = state.model_copy(update={"status": status})
    return RolloutRecord(state=state, gate_report="c" * 64, weights={}).canonical_json()


@pytest.fixture
def services(tmp_path):
    log = Segments(tmp_path)
    for days in range(10):
        log.predictions({"at": NOON - timedelta(days=days)})
    ledger = SimpleNamespace(latest_tick=lambda name: None)
    return SimpleNamespace(traffic=LocalTraffic(tmp_path), ledger=ledger)


def kept(services):
    return len(list((services.traffic.folder() / "m" / "predictions").glob("*")))


def test_prune_traffic_keeps_the_days_that_were_asked_for(services):
    (done,) = prune_traffic(services, 3, NOON)
    assert (kept(services), done.folders) == (4, 6)


@pytest.mark.parametrize(("status", "left"), [("running", 8), ("paused", 8), ("promoted", 4)])
def test_prune_traffic_keeps_what_an_unfinished_rollout_counts(services, status, left):
    services.ledger.latest_tick = lambda name: ("r", 0, record(NOON - timedelta(days=7), status))
    (done,) = prune_traffic(services, 3, NOON)
    assert kept(services) == left
    assert ("rollout" in done.kept_because) == (status != "promoted")


def test_prune_traffic_keeps_the_days_when_the_rollout_is_younger(services):
    services.ledger.latest_tick = lambda name: ("r", 0, record(NOON - timedelta(days=1)))
    prune_traffic(services, 3, NOON)
    assert kept(services) == 4


@pytest.mark.parametrize(("days", "model", "message"), [(0.5, None, "below 1"), (3, "n", "logged are: m")])
def test_prune_traffic_refuses_what_cannot_be_meant(services, days, model, message):
    with pytest.raises(UserError, match=message):
        prune_traffic(services, days, datetime.now(tz=NOON.tzinfo), model_name=model)
