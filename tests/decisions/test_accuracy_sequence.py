"""The simulations run a vectorised copy of the test, which a test of its own holds against the real one."""

import math

import numpy as np
import pytest
from scipy.special import log_ndtr

from tasks.decisions.accuracy_sequence import accuracy_difference, accuracy_evidence
from tasks.decisions.experiment import ArmStats, Observation, PairedCounts, StepTraffic

LOOKS = 200
ALPHA = 0.05


def arm(labelled: int, correct: int) -> ArmStats:
    return ArmStats(rows=labelled, labelled=labelled, correct=correct)


def split(weight: float, champion: tuple[int, int], challenger: tuple[int, int]) -> StepTraffic:
    return StepTraffic(weight, arm(*champion), arm(*challenger))


def drift(score: np.ndarray, information: np.ndarray, margin: float) -> np.ndarray:
    terms = []
    for scale in (margin, min(10 * margin, 0.5)):
        total = information + scale**-2
        terms.append(
            math.log(2) - 0.5 * np.log(total * scale**2) + score**2 / (2 * total) + log_ndtr(score / np.sqrt(total))
        )
    return np.logaddexp(*terms) - math.log(2)


def split_estimate(s1, n1, s0, n0, hypothesis):
    def variance(p1, p0):
        return p1 * (1 - p1) / n1 + p0 * (1 - p0) / n0

    null = np.clip((s0 + s1 - n1 * hypothesis) / (n0 + n1), max(0, -hypothesis), min(1, 1 - hypothesis))
    observed = variance((s1 + 1) / (n1 + 2), (s0 + 1) / (n0 + 2))
    return s1 / n1 - s0 / n0, np.maximum(observed, variance(null + hypothesis, null))


def paired_estimate(lost, won, n, hypothesis):
    p_lost, p_won = (lost + 0.5) / (n + 1), (won + 0.5) / (n + 1)
    linear = -(lost + won) + (2 * n - won + lost) * hypothesis
    constant = -lost * hypothesis * (1 - hypothesis)
    q = (np.sqrt(linear**2 - 8 * n * constant) - linear) / (4 * n)
    restricted = 2 * q + hypothesis * (1 - hypothesis)
    return (won - lost) / n, np.maximum(p_lost + p_won - (p_lost - p_won) ** 2, restricted) / n


def rejections(estimate, variance, margin):
    """Looks at which non-inferiority is proven, and looks at which harm is."""
    distance = estimate + margin
    crossed = drift(np.abs(distance) / variance, 1 / variance, margin) >= -math.log(ALPHA)
    return crossed & (distance > 0), crossed & (distance < 0)


def simulate_split(champion, challenger, margin, share, rows_per_look, runs, seed):
    """Return, for either conclusion, the share of runs that ever reach it and the challenger's rows at that look."""
    generator = np.random.default_rng(seed)
    new = generator.binomial(np.full((runs, LOOKS), rows_per_look), share)
    old = rows_per_look - new
    s1, s0 = generator.binomial(new, challenger).cumsum(axis=1), generator.binomial(old, champion).cumsum(axis=1)
    n1, n0 = new.cumsum(axis=1), old.cumsum(axis=1)
    estimate, variance = split_estimate(s1, np.maximum(n1, 1), s0, np.maximum(n0, 1), -margin)
    return [first(found & (n1 > 0) & (n0 > 0), n1) for found in rejections(estimate, variance, margin)]


def simulate_shadow(p_lost, p_won, margin, rows_per_look, runs, seed):
    shares = [p_lost, p_won, 1 - p_lost - p_won]
    counts = np.random.default_rng(seed).multinomial(rows_per_look, shares, size=(runs, LOOKS)).cumsum(axis=1)
    rows = counts.sum(axis=2)
    estimate, variance = paired_estimate(counts[..., 0], counts[..., 1], rows, -margin)
    return [first(found, rows) for found in rejections(estimate, variance, margin)]


def first(found, rows):
    hit = found.any(axis=1)
    at = rows[np.arange(len(rows)), found.argmax(axis=1)][hit]
    return hit.mean(), (np.median(at) if len(at) else math.inf)


@pytest.mark.parametrize("seed", range(30))
def test_simulated_test_agrees_with_accuracy_difference(seed):
    generator = np.random.default_rng(seed)
    n1, n0 = generator.integers(5, 300), generator.integers(5, 3000)
    s1, s0 = generator.binomial(n1, generator.uniform(0.5, 1)), generator.binomial(n0, 0.95)
    lost, won, _ = generator.multinomial(n1, [0.05, 0.02, 0.93])
    for margin in (0.01, 0.03):
        bounds = accuracy_difference(Observation((split(5, (n0, s0), (n1, s1)),)), margin, ALPHA)
        proven = (bounds.lower > -margin, bounds.upper < -margin)
        assert proven == rejections(*split_estimate(s1, n1, s0, n0, -margin), margin)
        table = PairedCounts(int(n1 - lost - won), int(lost), int(won), 0)
        bounds = accuracy_difference(Observation((StepTraffic(0.0, paired=table),)), margin, ALPHA)
        proven = (bounds.lower > -margin, bounds.upper < -margin)
        assert proven == rejections(*paired_estimate(lost, won, n1, -margin), margin)


HARDEST = [
    # champion's accuracy, margin, challenger's share, rows per look
    (0.99, 0.03, 0.05, 20),
    (0.98, 0.03, 0.05, 100),
    (0.98, 0.01, 0.05, 1000),
    (0.9, 0.03, 0.05, 1000),
    (0.98, 0.03, 0.5, 20),
    (0.99, 0.01, 0.5, 100),
    (0.6, 0.03, 0.95, 100),
    (0.98, 0.01, 0.95, 100),
]


@pytest.mark.parametrize(("champion", "margin", "share", "rows_per_look"), HARDEST)
def test_accuracy_difference_keeps_its_size_with_200_looks(champion, margin, share, rows_per_look):
    for found, _ in simulate_split(champion, champion - margin, margin, share, rows_per_look, runs=2000, seed=1):
        assert found <= ALPHA


@pytest.mark.parametrize("discordance", [0.011, 0.05, 0.3])
@pytest.mark.parametrize("rows_per_look", [1, 50])
def test_accuracy_difference_keeps_its_size_with_200_looks_in_shadow(discordance, rows_per_look):
    lost, won = (discordance + 0.01) / 2, (discordance - 0.01) / 2
    for found, _ in simulate_shadow(lost, won, 0.01, rows_per_look, runs=2000, seed=2):
        assert found <= ALPHA


@pytest.mark.slow
@pytest.mark.parametrize(("champion", "margin", "share", "rows_per_look"), HARDEST)
def test_accuracy_difference_keeps_its_size_in_10000_runs(champion, margin, share, rows_per_look):
    for found, _ in simulate_split(champion, champion - margin, margin, share, rows_per_look, runs=10_000, seed=3):
        assert found <= ALPHA


@pytest.mark.parametrize(("share", "rows_per_look"), [(0.5, 20), (0.05, 200)])
def test_accuracy_difference_proves_3_points_with_2000_rows_an_arm_when_the_arms_are_equal(share, rows_per_look):
    (proven, rows), (harm, _) = simulate_split(0.98, 0.98, 0.03, share, rows_per_look, runs=500, seed=4)
    assert proven >= 0.99  # within 2000 rows of the challenger, the last look
    assert rows < 600
    assert harm == 0.0


@pytest.mark.parametrize(
    ("drop", "margin", "rows_per_look", "enough"),
    [(0.85, 0.03, 2, 20), (0.2, 0.03, 4, 150), (0.02, 0.01, 500, 6000)],
)
def test_accuracy_difference_proves_harm_soon(drop, margin, rows_per_look, enough):
    (proven, _), (harm, rows) = simulate_split(0.98, 0.98 - drop, margin, 0.5, rows_per_look, runs=300, seed=5)
    assert harm >= 0.99
    assert rows < enough
    assert proven == 0.0


def test_accuracy_difference_proves_harm_in_shadow_after_a_dozen_rows_when_the_challenger_is_broken():
    (_, _), (harm, rows) = simulate_shadow(0.88, 0.0, 0.03, 1, runs=200, seed=6)
    assert harm == 1.0
    assert rows <= 20


def test_accuracy_difference_knows_nothing_without_labels():
    bounds = accuracy_difference(Observation((StepTraffic(5.0, ArmStats(requests=9, rows=9)),)), 0.02, ALPHA)
    assert (bounds.estimate, bounds.lower, bounds.upper) == (None, -1.0, 1.0)


def test_accuracy_difference_is_not_fooled_when_traffic_gets_harder_while_the_weight_rises():
    easy_then_hard = Observation((split(5, (9500, 9405), (500, 495)), split(50, (1000, 800), (1000, 800))))
    pooled = (495 + 800) / 1500 - (9405 + 800) / 10500
    bounds = accuracy_difference(easy_then_hard, 0.03, ALPHA)
    assert pooled < -0.1  # what a comparison over all rows would say of two equal arms
    assert bounds.estimate == pytest.approx(0.0, abs=1e-12)


def test_accuracy_difference_weights_its_parts_by_information():
    table = PairedCounts(both_right=950, only_champion=30, only_challenger=10, both_wrong=10)
    steps = (StepTraffic(0.0, paired=table), split(50, (1000, 980), (1000, 960)))
    bounds = accuracy_difference(Observation(steps), 0.02, ALPHA)
    lost, won, p0, p1 = 30.5 / 1001, 10.5 / 1001, 981 / 1002, 961 / 1002
    informations = [1000 / (lost + won - (lost - won) ** 2), 1000 / (p0 * (1 - p0) + p1 * (1 - p1))]
    assert bounds.estimate == pytest.approx(np.average([-0.02, -0.02], weights=informations))
    alone = accuracy_difference(Observation(steps[:1]), 0.02, ALPHA)
    assert bounds.upper - bounds.lower < alone.upper - alone.lower
    assert bounds.num_challenger == bounds.num_champion == 2000


def test_accuracy_difference_counts_mantel_haenszel_weights():
    steps = (split(5, (900, 900), (100, 90)), split(50, (300, 270), (300, 300)))
    weights = [900 * 100 / 1000, 300 * 300 / 600]
    bounds = accuracy_difference(Observation(steps), 0.02, ALPHA)
    assert bounds.estimate == pytest.approx(np.average([-0.1, 0.1], weights=weights))


@pytest.mark.parametrize("seed", range(20))
def test_accuracy_evidence_rejects_what_lies_beyond_the_bounds_of_accuracy_difference(seed):
    generator = np.random.default_rng(seed)
    n1, n0 = (int(rows) for rows in generator.integers(50, 2000, 2))
    s1, s0 = generator.binomial(n1, generator.uniform(0.85, 1)), generator.binomial(n0, 0.95)
    paired = PairedCounts(*(int(count) for count in generator.multinomial(400, [0.9, 0.04, 0.02, 0.04])))
    seen = Observation((StepTraffic(0.0, paired=paired), split(25, (n0, s0), (n1, s1))))
    bounds, evidence = accuracy_difference(seen, 0.02, ALPHA), accuracy_evidence(seen, 0.02)
    assert evidence.estimate == bounds.estimate
    for hypothesis in np.linspace(-0.1, 0.1, 21):
        rejected = evidence.log_e(hypothesis) >= -math.log(ALPHA)
        assert rejected == (not bounds.lower <= hypothesis <= bounds.upper)


def test_accuracy_evidence_is_none_without_labels():
    assert accuracy_evidence(Observation((StepTraffic(5.0, ArmStats(requests=9, rows=9)),)), 0.02) is None
