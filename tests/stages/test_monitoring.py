"""Months are simulated in `tests/decisions`; here real segments are read, and processes race."""

import threading
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from tasks.adapters.local_store import LocalArtifacts, LocalDocuments
from tasks.adapters.route_store import RouteStore
from tasks.contracts.errors import ModelError
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.contracts.verdict import LedgerEntry, Verdict
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.stages.monitoring import alarm_state, judge, last_window, monitor, rebase
from tests.adapters.traffic_files import DIGEST, NOON, Segments, minutes
from tests.stages.test_announcing import Server

POLICY = MonitoringPolicy(reference_hours=1.0)
LATER = timedelta(minutes=2)


@pytest.fixture
def world(tmp_path):
    """Model `m`, whose first hour is normal."""
    server, log = Server(), Segments(tmp_path / "traffic")
    documents = LocalDocuments(tmp_path)
    champion = LedgerEntry(
        model_name="m", sequence=1, action="bootstrap", candidate=DIGEST, version=1, gate_report=None,
        expected_champion=None, actor="ann", reason="first", created_at=NOON.isoformat(),
    )  # fmt: skip
    signature = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b"))
    route = Route(model_name="m", signature=signature, champion=Arm(digest=DIGEST, version=1))
    RouteStore(documents, tmp_path).publish(route, 0)
    ledger = SimpleNamespace(
        champion=lambda name: champion if name == "m" else None,
        history=lambda name: [champion],
        latest_tick=lambda name: None,
    )
    services = SimpleNamespace(
        settings=SimpleNamespace(traffic_root=log.root, store_root=tmp_path),
        artifacts=LocalArtifacts(tmp_path),
        documents=documents,
        registry=SimpleNamespace(version=lambda name, version: SimpleNamespace(tags={})),
        ledger=ledger,
        events=server,
    )
    made = SimpleNamespace(services=services, log=log, server=server, generator=np.random.default_rng(1))
    traffic(made, 0)
    return made


def traffic(world, hour, num=400, shift=0.0, slower=1.0):
    """One hour's requests."""
    generator = world.generator
    world.log.predictions(
        *(
            {
                "request_id": f"{hour}-{n}",
                "at": minutes(60 * hour + 60 * n / num),
                "prediction": float(generator.integers(10)),
                "confidence": float(generator.beta(6, 1)),
                "input_mean": float(generator.normal(0.3 + shift, 0.1)),
                "input_std": float(generator.normal(0.25, 0.02)),
                "input_sketch": [float(value) for value in generator.normal(0, 1, 8)],
                "latency_ms": float(slower * generator.lognormal(0, 0.3)),
            }
            for n in range(num)
        )
    )


def look(world, hour):
    """Monitor the window that is this hour."""
    return monitor(world.services, "m", 60, POLICY, minutes(60 * (hour + 1)) + LATER)


def drifted(world):
    return [one for one in world.server.events.values() if one.event == "stillhouse.drift.detected"]


def test_last_window_lies_on_a_fixed_grid():
    for late in (1, 15, 44, 59):
        assert last_window(60, NOON + timedelta(minutes=late)) == (NOON - timedelta(hours=1), NOON)
    assert last_window(60, NOON + timedelta(seconds=59))[1] == NOON - timedelta(hours=1)  # not settled yet
    assert last_window(15, minutes(17)) == (minutes(0), minutes(15))


def test_monitor_raises_an_alarm_in_the_second_window_that_drifts_and_sends_it_once(world):
    traffic(world, 1)
    traffic(world, 2, shift=0.1)
    traffic(world, 3, shift=0.1)
    assert look(world, 1).report.failed("drift") == ()
    assert look(world, 2).raised == ()
    third = look(world, 3)
    assert [one.kind for one in third.raised] == ["drift"]
    for _ in range(3):
        assert look(world, 3).raised == ()
    (event,) = drifted(world)
    assert event.payload["since"] == minutes(120).isoformat()
    assert "input_mean" in event.payload["reason"]
    assert alarm_state(world.services, "m").unsent == ()
    assert [one.kind for one in alarm_state(world.services, "m").running()] == ["drift"]


def test_monitor_sends_an_alarm_later_when_the_event_server_is_away(world):
    world.server.away = True
    for hour in (1, 2):
        traffic(world, hour, shift=0.1)
        look(world, hour)
    assert drifted(world) == []
    assert len(alarm_state(world.services, "m").unsent) == 1
    world.server.away = False
    look(world, 2)
    look(world, 2)
    assert len(drifted(world)) == 1
    assert alarm_state(world.services, "m").unsent == ()


def test_monitors_that_race_raise_one_alarm(world):
    for hour in (1, 2):
        traffic(world, hour, shift=0.1)
    look(world, 1)
    raised, start = [], threading.Barrier(4)

    def race():
        start.wait()
        raised.extend(look(world, 2).raised)

    racers = [threading.Thread(target=race) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(raised) == 1
    assert len(drifted(world)) == 1


def test_monitor_finds_a_slower_service(world):
    for hour in (1, 2):
        traffic(world, hour, slower=2.0)
        look(world, hour)
    assert [one.kind for one in alarm_state(world.services, "m").running()] == ["latency"]


def test_monitor_cannot_tell_without_traffic(world):
    record = look(world, 5)
    assert {record.report.verdict_of(kind) for kind in ("drift", "accuracy", "latency", "errors")} == {
        Verdict.INCONCLUSIVE
    }
    assert record.state.recent == {}


def test_judge_counts_no_window(world):
    traffic(world, 1, shift=0.1)
    report = judge(world.services, "m", minutes(60), minutes(120), POLICY, minutes(125))
    assert report.failed("drift")
    assert alarm_state(world.services, "m") is None


def test_rebase_makes_the_new_traffic_normal(world):
    traffic(world, 1, shift=0.1)
    traffic(world, 2, shift=0.1)
    assert rebase(world.services, "m", minutes(60), minutes(120), POLICY, minutes(121)) == 400
    assert look(world, 2).report.failed("drift") == ()
    with pytest.raises(ModelError, match="0 independent rows"):
        rebase(world.services, "m", minutes(600), minutes(660), POLICY, minutes(661))


def test_monitor_names_what_a_model_lacks(world):
    with pytest.raises(ModelError, match="nothing has no champion"):
        monitor(world.services, "nothing", 60, POLICY, NOON)
