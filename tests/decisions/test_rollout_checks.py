"""Monte Carlo of whole rollouts: how often each check errs when it is asked at every one of 200 ticks.

Runs are simulated in arrays. Each simulation reads its bounds from the public functions, or is held against them at
every tick of some runs, so that what is counted is what a rollout decides.
"""

import math
from functools import cache

import numpy as np
import pytest
from scipy.special import log_ndtr

from tasks.contracts.verdict import Verdict
from tasks.decisions.experiment import ArmStats, Observation, PairedCounts, StepTraffic, division_log_e
from tasks.decisions.noninferiority import restricted_variance
from tasks.decisions.rollout_checks import accuracy_check, error_check, latency_checks, sample_ratio_check
from tasks.decisions.rollout_policy import RolloutPolicy
from tasks.decisions.sequential import always_valid_p_value, quantile_bounds, rate_lower_bound, rate_upper_bound

ALPHA = 0.05
RAMP = ((0.0, 20), (5.0, 60), (25.0, 60), (50.0, 60))
"""Weight and ticks of each step: 200 looks."""
DIFFICULTY = {0.0: 0.97, 5.0: 0.90, 25.0: 0.96, 50.0: 0.93}
"""The champion's accuracy at each step: traffic that gets harder and easier while the weight rises."""

pytestmark = pytest.mark.slow


def told(what: str, share: float, runs: int) -> None:
    print(f"\n{what}: {share:.4f} of {runs} rollouts")


def looks(first: int) -> list[int]:
    """Position of the step at every look, beginning with the step `first`."""
    return [step for step, (_, ticks) in enumerate(RAMP) if step >= first for _ in range(ticks)]


def labelled_arm(rows: int, correct: int) -> ArmStats:
    return ArmStats(rows=rows, labelled=rows, correct=correct)


class AccuracyRuns:
    """Labelled rows of many rollouts at once; after `look`, arrays [runs] of the counts so far."""

    def __init__(self, drop: float, rows_per_tick: int, runs: int, seed: int) -> None:
        self.generator, self.drop, self.rows, self.runs = np.random.default_rng(seed), drop, rows_per_tick, runs
        self.paired = np.zeros((4, runs), int)  # both right, only champion, only challenger, both wrong
        self.split = {weight: np.zeros((4, runs), int) for weight, _ in RAMP[1:]}  # n0, s0, n1, s1

    def look(self, step: int) -> None:
        weight = RAMP[step][0]
        right = DIFFICULTY[weight]
        if weight == 0.0:
            won = 0.02
            cells = [right - won - self.drop, won + self.drop, won, 1 - right - won]
            self.paired += self.generator.multinomial(self.rows, cells, size=self.runs).T
            return
        new = self.generator.binomial(self.rows, weight / 100, size=self.runs)
        old = self.rows - new
        counts = (old, self.generator.binomial(old, right), new, self.generator.binomial(new, right - self.drop))
        self.split[weight] += np.stack(counts)

    def observation(self, run: int) -> Observation:
        shadow = StepTraffic(0.0, paired=PairedCounts(*(int(count) for count in self.paired[:, run])))
        steps = [shadow] if shadow.paired.total else []
        for weight, counts in self.split.items():
            n0, s0, n1, s1 = (int(count) for count in counts[:, run])
            if n0 + n1:
                steps.append(StepTraffic(weight, labelled_arm(n0, s0), labelled_arm(n1, s1)))
        return Observation(tuple(steps))

    def verdicts(self, margin: float):
        """Return which runs prove non-inferiority now, and which prove harm: `accuracy_difference` in arrays."""
        parts = []
        _, lost, won, _ = self.paired
        total = self.paired.sum(axis=0)
        if total[0]:
            p_lost, p_won = (lost + 0.5) / (total + 1), (won + 0.5) / (total + 1)
            observed = (p_lost + p_won - (p_lost - p_won) ** 2) / total
            restricted = np.array([restricted_now(*cell, -margin) for cell in zip(lost, won, total, strict=True)])
            parts.append(((won - lost) / total, observed, np.maximum(observed, restricted / total)))
        used = [(counts, (counts[0] > 0) & (counts[2] > 0)) for counts in self.split.values() if counts[0].any()]
        if used:
            weights = [np.where(ok, c[0] * c[2] / np.maximum(c[0] + c[2], 1), 0.0) for c, ok in used]
            sum_w = np.where(sum(weights) > 0, sum(weights), 1.0)
            n0, s0, n1, s1 = (sum(np.where(ok, c[i], 0) for c, ok in used) for i in range(4))
            rates = [c[3] / np.maximum(c[2], 1) - c[1] / np.maximum(c[0], 1) for c, _ in used]
            difference = sum(w * rate for w, rate in zip(weights, rates, strict=True)) / sum_w
            per0 = sum(w**2 / np.maximum(c[0], 1) for w, (c, _) in zip(weights, used, strict=True)) / sum_w**2
            per1 = sum(w**2 / np.maximum(c[2], 1) for w, (c, _) in zip(weights, used, strict=True)) / sum_w**2

            def combined(p0, p1):
                return per0 * p0 * (1 - p0) + per1 * p1 * (1 - p1)

            observed = combined((s0 + 1) / (n0 + 2), (s1 + 1) / (n1 + 2))
            null = np.clip((s0 + s1 + n1 * margin) / np.maximum(n0 + n1, 1), margin, 1.0)
            there = sum(weights) > 0
            observed = np.where(there, observed, np.inf)
            parts.append(
                (difference, observed, np.where(there, np.maximum(observed, combined(null, null - margin)), 0.0))
            )
        information = sum(1 / observed for _, observed, _ in parts)
        shares = [1 / (observed * information) for _, observed, _ in parts]
        estimate = sum(share * part[0] for share, part in zip(shares, parts, strict=True))
        variance = sum(share**2 * part[2] for share, part in zip(shares, parts, strict=True))
        distance = estimate + margin
        crossed = drift(np.abs(distance) / variance, 1 / variance, margin) >= -math.log(ALPHA)
        return crossed & (distance > 0), crossed & (distance < 0)


@cache
def restricted_now(lost: int, won: int, total: int, difference: float) -> float:
    return restricted_variance(int(lost), int(won), int(total), difference)


def drift(score, information, margin):
    terms = []
    for scale in (margin, min(10 * margin, 0.5)):
        total = information + scale**-2
        terms.append(
            math.log(2) - 0.5 * np.log(total * scale**2) + score**2 / (2 * total) + log_ndtr(score / np.sqrt(total))
        )
    return np.logaddexp(*terms) - math.log(2)


def accuracy_rollouts(drop: float, margin: float, rows: int, runs: int, seed: int, held: int = 0, first: int = 0):
    """Return the look at which each run first proves non-inferiority and harm; 0 where it never does.

    The first `held` runs are judged by `accuracy_check` too, at every look, and have to agree.
    """
    sim = AccuracyRuns(drop, rows, runs, seed)
    first_pass, first_fail = np.zeros(runs, int), np.zeros(runs, int)
    for number, step in enumerate(looks(first), start=1):
        sim.look(step)
        passed, failed = sim.verdicts(margin)
        for run in range(held):
            verdict = accuracy_check(sim.observation(run), margin, ALPHA).verdict
            assert (verdict is Verdict.PASS, verdict is Verdict.FAIL) == (passed[run], failed[run]), (number, run)
        first_pass[passed & (first_pass == 0)] = number
        first_fail[failed & (first_fail == 0)] = number
    return first_pass, first_fail


def test_accuracy_of_a_simulated_rollout_is_judged_as_the_public_check_judges_it():
    accuracy_rollouts(0.02, 0.02, 60, 6, seed=1, held=6)
    accuracy_rollouts(0.0, 0.03, 200, 4, seed=2, held=4, first=1)


@pytest.mark.parametrize(("margin", "rows"), [(0.02, 100), (0.01, 500), (0.03, 30)])
def test_accuracy_promotes_a_challenger_at_the_margin_and_rolls_it_back_in_5_percent_at_most(margin, rows):
    runs = 4000
    passed, failed = accuracy_rollouts(margin, margin, rows, runs, seed=3)
    told(f"margin {margin}, {rows} rows a tick: falsely promoted", (passed > 0).mean(), runs)
    told(f"margin {margin}, {rows} rows a tick: rolled back exactly at the margin", (failed > 0).mean(), runs)
    assert (passed > 0).mean() <= ALPHA
    assert (failed > 0).mean() <= ALPHA


@pytest.mark.parametrize(("margin", "rows"), [(0.02, 100), (0.03, 30)])
def test_accuracy_rolls_an_equal_challenger_back_in_5_percent_at_most(margin, rows):
    runs = 4000
    passed, failed = accuracy_rollouts(0.0, margin, rows, runs, seed=4)
    told(f"equal, margin {margin}, {rows} rows a tick: falsely rolled back", (failed > 0).mean(), runs)
    told(f"equal, margin {margin}, {rows} rows a tick: proven as good within 200 ticks", (passed > 0).mean(), runs)
    assert (failed > 0).mean() <= ALPHA


@pytest.mark.parametrize(("first", "name"), [(0, "from shadow on"), (1, "from 5 % on"), (3, "at 50 %")])
def test_accuracy_detects_a_drop_of_two_points_beyond_a_margin_of_one_half(first, name):
    runs, rows = 1000, 500
    _, failed = accuracy_rollouts(0.02, 0.005, rows, runs, seed=5, first=first)
    found = failed[failed > 0]
    told(f"2-point drop, margin 0.005, 500 rows a tick, {name}: rolled back", (failed > 0).mean(), runs)
    median, late = np.median(found), np.quantile(found, 0.9)
    print(f"found at tick {median:.0f} (median), {late:.0f} (9 of 10), after {rows * median:.0f} requests in all")
    assert (failed > 0).mean() >= 0.9


def error_rates(champion: float, challenger: float, rows: int, runs: int, seed: int) -> np.ndarray:
    """Return which runs ever prove harm by errors, over the split steps; the bounds come from the public functions."""
    policy = RolloutPolicy(steps=[weight for weight, _ in RAMP])
    limit, alpha = policy.max_error_rate_increase, policy.alpha / len(policy.steps)
    generator, harmed = np.random.default_rng(seed), np.zeros(runs, bool)
    for weight, ticks in RAMP[1:]:
        new, old = round(rows * weight / 100), rows - round(rows * weight / 100)
        bad_new, bad_old = np.zeros(runs, int), np.zeros(runs, int)
        for tick in range(1, ticks + 1):
            bad_new += generator.binomial(new, challenger, size=runs)
            bad_old += generator.binomial(old, champion, size=runs)
            lower = {int(bad): rate_lower_bound(int(bad), tick * new, alpha / 2) for bad in np.unique(bad_new)}
            upper = {int(bad): rate_upper_bound(int(bad), tick * old, alpha / 2) for bad in np.unique(bad_old)}
            now = np.array([lower[bad] for bad in bad_new]) - np.array([upper[bad] for bad in bad_old]) > limit
            if tick % 20 == 0:
                arms = ArmStats(tick * old, int(bad_old[0])), ArmStats(tick * new, int(bad_new[0]))
                check = error_check(Observation((StepTraffic(weight, *arms),)), weight, limit, alpha)
                assert (check.verdict is Verdict.FAIL) == now[0]
            harmed |= now
    return harmed


@pytest.mark.parametrize(
    ("name", "champion", "challenger"), [("exactly at the limit", 0.005, 0.015), ("equal", 0.01, 0.01)]
)
def test_errors_roll_a_challenger_back_falsely_in_5_percent_at_most(name, champion, challenger):
    runs = 4000
    harmed = error_rates(champion, challenger, 200, runs, seed=6)
    told(f"errors, {name}: rolled back", harmed.mean(), runs)
    assert harmed.mean() <= ALPHA


def test_errors_find_a_challenger_that_fails_three_points_more():
    assert error_rates(0.005, 0.035, 400, 200, seed=7).mean() >= 0.95


def latency_runs(ratio: float, rows: int, runs: int, seed: int) -> np.ndarray:
    """Return which runs ever prove harm by a latency quantile; ranks of the bounds come from `quantile_bounds`."""
    policy = RolloutPolicy(steps=[weight for weight, _ in RAMP])
    alpha = policy.alpha / (len(policy.steps) * len(policy.latency_quantiles))
    generator, harmed = np.random.default_rng(seed), np.zeros(runs, bool)
    for weight, ticks in RAMP[1:]:
        new, old = max(1, round(rows * weight / 100)), rows - max(1, round(rows * weight / 100))
        slow = ratio * generator.lognormal(0.0, 0.5, size=(runs, ticks * new))
        fast = generator.lognormal(0.0, 0.5, size=(runs, ticks * old))
        for tick in range(1, ticks + 1):
            now = np.zeros(runs, bool)
            for quantile in policy.latency_quantiles:
                lower = order_statistic(slow[:, : tick * new], quantile, alpha / 2, 0)
                upper = order_statistic(fast[:, : tick * old], quantile, alpha / 2, 1)
                now |= lower / upper > policy.max_latency_ratio
            if tick % 20 == 0:
                arms = [
                    ArmStats(requests=len(ms), latencies_ms=ms) for ms in (fast[0, : tick * old], slow[0, : tick * new])
                ]
                checks = latency_checks(Observation((StepTraffic(weight, *arms),)), weight, policy)
                assert any(check.verdict is Verdict.FAIL for check in checks) == now[0]
            harmed |= now
    return harmed


def order_statistic(samples: np.ndarray, quantile: float, alpha: float, side: int) -> np.ndarray:
    """Return the lower (0) or upper (1) bound of the quantile for every row of samples [runs, N]."""
    rank = quantile_bounds(np.arange(samples.shape[1], dtype=float), quantile, alpha)[side]
    if not math.isfinite(rank):
        return np.full(len(samples), (0.0, np.inf)[side])
    return np.partition(samples, int(rank), axis=1)[:, int(rank)]


@pytest.mark.parametrize(("name", "ratio"), [("exactly at the limit", 1.2), ("equal", 1.0)])
def test_latency_quantiles_roll_a_challenger_back_falsely_in_5_percent_at_most(name, ratio):
    runs = 1000
    harmed = latency_runs(ratio, 40, runs, seed=8)
    told(f"latency p50 and p95, {name}: rolled back", harmed.mean(), runs)
    assert harmed.mean() <= ALPHA


def test_latency_quantiles_find_a_challenger_twice_as_slow():
    assert latency_runs(2.0, 40, 100, seed=9).mean() >= 0.95


@pytest.mark.parametrize("rows", [50, 1000])
def test_sample_ratio_alarms_in_one_of_a_thousand_healthy_rollouts_at_most(rows):
    runs, alpha = 50_000, RolloutPolicy().sample_ratio_alpha
    generator, alarmed, before = np.random.default_rng(10), np.zeros(runs, bool), np.zeros(runs)
    steps: list[StepTraffic] = []
    for weight, ticks in RAMP[1:]:
        challenger = np.zeros(runs)
        for tick in range(1, ticks + 1):
            challenger += generator.binomial(rows, weight / 100, size=runs)
            log_e = before + division_log_e(challenger, tick * rows, weight)
            alarmed |= always_valid_p_value(log_e) <= alpha
            if tick % 20 == 0:
                arms = ArmStats(requests=tick * rows - int(challenger[0])), ArmStats(requests=int(challenger[0]))
                check = sample_ratio_check(Observation((*steps, StepTraffic(weight, *arms))), alpha)
                assert check.bound == pytest.approx(math.exp(-max(log_e[0], 0.0)))
        before = log_e
        steps.append(StepTraffic(weight, *arms))
    told(f"sample ratio, {rows} requests a tick, healthy: alarmed", alarmed.mean(), runs)
    assert alarmed.mean() <= 1e-3
