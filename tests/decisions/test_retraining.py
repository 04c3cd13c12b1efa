from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tasks.decisions.retraining import RetrainingPolicy, why_not_now

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
POLICY = RetrainingPolicy(cooldown_hours=24, max_per_week=2)


def ago(**span):
    return NOW - timedelta(**span)


def test_why_not_now_allows_the_first_and_one_after_the_pause():
    assert why_not_now(POLICY, [], NOW) is None
    assert why_not_now(POLICY, [ago(hours=24)], NOW) is None


def test_why_not_now_names_the_pause_and_its_end():
    assert why_not_now(POLICY, [ago(hours=1)], NOW) == (
        "the last retraining started at 2026-03-20T11:00:00+00:00, and retraining.cooldown_hours is 24; "
        "the next may start at 2026-03-21T11:00:00+00:00"
    )


def test_why_not_now_names_the_budget_and_when_there_is_room():
    refusal = why_not_now(POLICY, [ago(days=2), ago(days=5), ago(days=8)], NOW)
    assert refusal == (
        "2 retrainings started within seven days, and retraining.max_per_week is 2; "
        "the next may start at 2026-03-22T12:00:00+00:00"
    )


def test_why_not_now_forgets_after_seven_days():
    assert why_not_now(POLICY, [ago(days=2), ago(days=7)], NOW) is None


def test_why_not_now_allows_none_when_the_budget_is_nothing():
    assert "none is allowed" in why_not_now(RetrainingPolicy(max_per_week=0), [], NOW)


@given(st.lists(st.integers(0, 24 * 60), max_size=200), st.integers(1, 5), st.integers(0, 72))
def test_no_seven_days_hold_more_than_the_budget_whatever_comes(hours, budget, pause):
    policy, starts = RetrainingPolicy(cooldown_hours=pause, max_per_week=budget), []
    for hour in sorted(hours):
        moment = NOW + timedelta(hours=hour)
        if why_not_now(policy, starts, moment) is None:
            starts.append(moment)
    assert all(sum(timedelta() <= start - first < timedelta(days=7) for start in starts) <= budget for first in starts)
    assert all(later - earlier >= timedelta(hours=pause) for earlier, later in pairwise(starts))
