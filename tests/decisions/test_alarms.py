from datetime import UTC, datetime, timedelta

import pytest

from tasks.contracts.monitoring import WindowCheck, WindowReport
from tasks.contracts.verdict import Verdict
from tasks.decisions.alarms import announcement_id, count_window
from tasks.decisions.monitoring_policy import MonitoringPolicy

POLICY = MonitoringPolicy(failing_windows=2, of_windows=3, cooldown_hours=5)
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def report(hour, letter, kind="drift", digest="a" * 64):
    verdict = {"f": Verdict.FAIL, "p": Verdict.PASS, "i": Verdict.INCONCLUSIVE}[letter]
    check = WindowCheck(
        kind=kind, name="input_mean_ks", verdict=verdict, estimate=0.4, reference=None, bound=0.1, limit=0.1,
        p_value=1e-9, num_rows=500, num_reference=500, detail="effect 0.4",
    )  # fmt: skip
    return WindowReport(
        model_name="digits", model_digest=digest, version=2, since=(NOON + timedelta(hours=hour)).isoformat(),
        until=(NOON + timedelta(hours=hour + 1)).isoformat(), content_reference=None, service_reference=None,
        requests=500, rows=500, errors=0, cached=0, latency_ms={}, labelled_share=None, median_label_delay_s=None,
        checks=(check,),
    )  # fmt: skip


def play(letters, state=None, start=0, **changes):
    """Count one window per letter; return the state and the hours at whose window an alarm began."""
    hours = []
    for hour, letter in enumerate(letters, start):
        state, raised = count_window(state, report(hour, letter, **changes), POLICY)
        hours += [hour] * len(raised)
    return state, hours


@pytest.mark.parametrize(
    ("letters", "hours"),
    [
        ("ff", [1]),
        ("fpf", [2]),
        ("fppf", []),
        ("f", []),
        ("pppp", []),
        ("fif", [2]),  # a window without an answer neither counts ...
        ("fipipif", []),  # ... nor clears
        ("fffffff", [1]),  # one alarm for one episode
        ("ffppp" + "ff", [1]),  # within the cooldown of five hours after its end at 17:00
        ("ffppp" + "ppppp" + "ff", [1, 11]),
        ("ffp" + "fpf" + "ff", [1]),  # never three good windows in a row: still the first
        ("iiii", []),
    ],
)
def test_count_window_begins_an_alarm_only_when_enough_windows_fail(letters, hours):
    assert play(letters)[1] == hours


def test_count_window_ends_an_alarm_after_good_windows_in_a_row_and_not_by_silence():
    assert play("ffiiiiii")[0].running()
    ended = play("ffppp")[0].episodes["drift"]
    assert (ended.ended_at, ended.windows) == ((NOON + timedelta(hours=5)).isoformat(), 2)


def test_count_window_says_what_how_much_and_since_when():
    state, _ = play("pff")
    (event,) = state.unsent
    assert event.event == "stillhouse.drift.detected"
    assert event.event_id == state.episodes["drift"].episode_id
    assert event.payload["since"] == (NOON + timedelta(hours=1)).isoformat()
    assert event.payload["checks"][0]["estimate"] == 0.4
    assert "input_mean_ks: effect 0.4" in event.payload["reason"]


@pytest.mark.parametrize("minutes", [0, -15, -59, -600])
def test_count_window_counts_no_moment_twice(minutes):
    state, _ = play("f")
    late = report(1 + minutes / 60, "f")
    again, raised = count_window(state, late, POLICY)
    assert (again == state) == (minutes < 0)
    assert bool(raised) == (minutes == 0)


def test_count_window_counts_kinds_apart():
    state, hours = play("f", kind="drift")
    state, more = play("f", state, start=1, kind="latency")
    assert (hours, more) == ([], [])
    assert {kind: len(windows) for kind, windows in state.recent.items()} == {"drift": 1, "latency": 1}


def test_count_window_starts_anew_when_another_champion_serves_but_keeps_what_is_unsent():
    state, _ = play("ff")
    fresh, hours = play("f", state, start=2, digest="b" * 64)
    assert hours == []
    assert fresh.running() == ()
    assert fresh.unsent == state.unsent


def test_announcement_id_is_the_same_for_the_same_thing():
    assert announcement_id("a", "b") == announcement_id("a", "b") != announcement_id("ab", "")
