"""Months are simulated in `tests/decisions`; here real segments are read, and processes race."""

import threading
from datetime import timedelta

import pytest

from tasks.contracts.errors import ModelError
from tasks.contracts.verdict import Verdict
from tasks.stages.monitoring import alarm_state, judge, last_window, monitor, rebase
from tests.adapters.traffic_files import NOON, minutes
from tests.stages.monitored_world import POLICY, MonitoredWorld


@pytest.fixture
def world(tmp_path):
    """Model `m`, whose first hour is normal."""
    made = MonitoredWorld(tmp_path)
    made.traffic(0)
    return made


def test_last_window_lies_on_a_fixed_grid():
    for late in (1, 15, 44, 59):
        assert last_window(60, NOON + timedelta(minutes=late)) == (NOON - timedelta(hours=1), NOON)
    assert last_window(60, NOON + timedelta(seconds=59))[1] == NOON - timedelta(hours=1)  # not settled yet
    assert last_window(15, minutes(17)) == (minutes(0), minutes(15))


def test_monitor_raises_an_alarm_in_the_second_window_that_drifts_and_sends_it_once(world):
    world.traffic(1)
    world.traffic(2, shift=0.1)
    world.traffic(3, shift=0.1)
    assert world.look(1).report.failed("drift") == ()
    assert world.look(2).raised == ()
    third = world.look(3)
    assert [one.kind for one in third.raised] == ["drift"]
    for _ in range(3):
        assert world.look(3).raised == ()
    (event,) = world.sent("stillhouse.drift.detected")
    assert event.payload["since"] == minutes(120).isoformat()
    assert "input_mean" in event.payload["reason"]
    assert alarm_state(world.services, "m").unsent == ()
    assert [one.kind for one in alarm_state(world.services, "m").running()] == ["drift"]


def test_monitor_sends_an_alarm_later_when_the_event_server_is_away(world):
    world.server.away = True
    for hour in (1, 2):
        world.traffic(hour, shift=0.1)
        world.look(hour)
    assert world.sent("stillhouse.drift.detected") == []
    assert len(alarm_state(world.services, "m").unsent) == 1
    world.server.away = False
    world.look(2)
    world.look(2)
    assert len(world.sent("stillhouse.drift.detected")) == 1
    assert alarm_state(world.services, "m").unsent == ()


def test_monitors_that_race_raise_one_alarm(world):
    for hour in (1, 2):
        world.traffic(hour, shift=0.1)
    world.look(1)
    raised, start = [], threading.Barrier(4)

    def race():
        start.wait()
        raised.extend(world.look(2).raised)

    racers = [threading.Thread(target=race) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(raised) == 1
    assert len(world.sent("stillhouse.drift.detected")) == 1


def test_monitor_finds_a_slower_service(world):
    for hour in (1, 2):
        world.traffic(hour, slower=2.0)
        world.look(hour)
    assert [one.kind for one in alarm_state(world.services, "m").running()] == ["latency"]


def test_monitor_cannot_tell_without_traffic(world):
    record = world.look(5)
    assert {record.report.verdict_of(kind) for kind in ("drift", "accuracy", "latency", "errors")} == {
        Verdict.INCONCLUSIVE
    }
    assert record.state.recent == {}


def test_judge_counts_no_window(world):
    world.traffic(1, shift=0.1)
    report = judge(world.services, "m", minutes(60), minutes(120), POLICY, minutes(125))
    assert report.failed("drift")
    assert alarm_state(world.services, "m") is None


def test_rebase_makes_the_new_traffic_normal(world):
    world.traffic(1, shift=0.1)
    world.traffic(2, shift=0.1)
    assert rebase(world.services, "m", minutes(60), minutes(120), POLICY, minutes(121)) == 400
    assert world.look(2).report.failed("drift") == ()
    with pytest.raises(ModelError, match="0 independent rows"):
        rebase(world.services, "m", minutes(600), minutes(660), POLICY, minutes(661))


def test_monitor_names_what_a_model_lacks(world):
    with pytest.raises(ModelError, match="nothing has no champion"):
        monitor(world.services, "nothing", 60, POLICY, NOON)
