import math

import pytest
from scipy.stats import binomtest

from benchmarks.claims import SHARE_VARIABLE, counted, counted_a_month, generators, num_runs, took
from benchmarks.result import rate, share
from benchmarks.table import matrix


def test_share_has_the_exact_interval():
    made = share("found", 37, 10_000)
    exact = binomtest(37, 10_000).proportion_ci(0.95, method="exact")
    assert (made.median, made.num_repeats) == (0.37, 10_000)
    assert made.interval == pytest.approx((100 * exact.low, 100 * exact.high), rel=1e-3)
    assert share("found", 0, 100).interval == pytest.approx((0.0, 100 * (1 - 0.025 ** (1 / 100))), rel=1e-3)


def test_share_refuses_no_runs():
    with pytest.raises(ValueError, match="has no runs"):
        share("found", 0, 0)


def test_rate_has_the_exact_interval_of_a_poisson_count():
    assert rate("alarms", "a month", 0, 6.0).interval == pytest.approx((0.0, -math.log(0.025) / 6), rel=1e-3)
    assert rate("alarms", "a month", 10, 2.0).interval == pytest.approx((4.795 / 2, 18.39 / 2), rel=1e-3)  # tables


def test_a_claim_is_a_row_of_what_is_found_beside_what_may_be():
    figures = [
        *counted("false passes", 480, 10_000, at_most=0.05, computed=0.0496),
        *counted_a_month("alarms", 0, 6.0, 1.0),
        *took("looks until found", "looks", [1, 2, 9]),
        *took("looks until never found", "looks", []),
    ]
    assert matrix(figures) == [
        "|  | found | at most | computed | runs |",
        "| --- | --- | --- | --- | --- |",
        "| false passes | 4.8 % (4.39 to 5.24) | 5 % | 4.96 % | 10,000 |",
        "| alarms | 0 a month (0 to 0.615) | 1 a month |  | 6 months |",
        "| looks until found | 2 looks (1 to 9, mean 4) |  |  | 3 |",
    ]


def test_generators_differ_by_part_and_run_and_repeat():
    first, second = (one.random() for one in generators(0, "a", 2))
    assert first != second
    assert first == next(generators(0, "a", 1)).random()
    assert first != next(generators(0, "b", 1)).random()
    assert first != next(generators(1, "a", 1)).random()


@pytest.mark.parametrize(("given", "runs"), [(None, 400), ("", 400), ("0.1", 40), ("0.00001", 1)])
def test_num_runs_are_a_share_of_the_whole(monkeypatch, given, runs):
    monkeypatch.delenv(SHARE_VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(SHARE_VARIABLE, given)
    assert num_runs(400) == runs
