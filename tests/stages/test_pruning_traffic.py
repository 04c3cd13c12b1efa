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


@pytest.mark.parametrize(("began", "left"), [(None, 2), (7, 8)])
def test_prune_traffic_keeps_a_day_and_what_a_rollout_counts_however_many_bytes_that_is(services, began, left):
    if began is not None:
        services.ledger.latest_tick = lambda name: ("r", 0, record(NOON - timedelta(days=began)))
    (done,) = prune_traffic(services, None, NOON, max_bytes=0)
    assert kept(services) == left
    assert "still needed" in done.kept_because
    assert done.kept_bytes > 0


@pytest.mark.parametrize(
    ("days", "max_bytes", "model", "message"),
    [
        (0.5, None, None, "below 1"), (3, None, "n", "logged are: m"), (None, None, None, "--keep-days, --max-bytes"),
        (None, -1, None, "negative"),
    ],
)  # fmt: skip
def test_prune_traffic_refuses_what_cannot_be_meant(services, days, max_bytes, model, message):
    with pytest.raises(UserError, match=message):
        prune_traffic(services, days, datetime.now(tz=NOON.tzinfo), max_bytes=max_bytes, model_name=model)
