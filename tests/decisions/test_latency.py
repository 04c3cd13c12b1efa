import time

import numpy as np
import pytest

from tasks.contracts.errors import DataError
from tasks.contracts.verdict import Verdict
from tasks.decisions.bootstrap import resampled_positions, samples_to_settle
from tasks.decisions.latency import judge_latency


def samples(num: int, seed: int, *, correlation: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two equally fast models measured in turn, with spikes; noise correlated in time if asked."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((num, 2))
    for row in range(1, num if correlation else 0):
        noise[row] = correlation * noise[row - 1] + np.sqrt(1 - correlation**2) * noise[row]
    spikes = (generator.random((num, 2)) < 0.03) * generator.exponential(1.0, (num, 2))
    return tuple((np.exp(0.1 * noise) + spikes).T)


@pytest.mark.parametrize("quantile", [0.5, 0.95])
@pytest.mark.parametrize(("speed", "verdict"), [(0.5, Verdict.PASS), (2.0, Verdict.FAIL), (1.0, Verdict.INCONCLUSIVE)])
def test_judge_latency_is_three_valued(quantile, speed, verdict):
    candidate, baseline = samples(300, seed=1)
    outcome = judge_latency(speed * candidate, baseline, quantile, 1.0, 0.05)
    assert outcome.verdict is verdict
    assert outcome.lower <= outcome.estimate <= outcome.upper
    assert (outcome.num_samples_needed is not None) == (verdict is Verdict.INCONCLUSIVE)


def test_judge_latency_is_exact_when_every_pair_has_the_same_ratio():
    baseline = samples(100, seed=2)[0]
    outcome = judge_latency(0.25 * baseline, baseline, 0.5, 0.5, 0.05)
    assert (outcome.lower, outcome.estimate, outcome.upper) == pytest.approx((0.25, 0.25, 0.25))


def test_judge_latency_gives_equal_bounds_for_equal_seeds():
    candidate, baseline = samples(120, seed=3)
    first, second = (judge_latency(candidate, baseline, 0.5, 1.0, 0.05, seed=11, block_length=5) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("quantile", "num"), [(0.5, 9), (0.95, 99), (0.5, 0)])
def test_judge_latency_is_inconclusive_when_samples_beyond_the_quantile_are_too_few(quantile, num):
    outcome = judge_latency(np.full(num, 0.01), np.ones(num), quantile, 1.0, 0.05)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert outcome.num_samples_needed == {0.5: 10, 0.95: 100}[quantile]


def test_judge_latency_refuses_samples_that_are_not_paired():
    with pytest.raises(DataError, match="300 of the candidate and 299"):
        judge_latency(np.ones(300), np.ones(299), 0.5, 1.0, 0.05)


def passes(num: int, quantile: float, runs: int, **options) -> float:
    found = 0
    for seed in range(runs):
        candidate, baseline = samples(num, seed, correlation=options.get("correlation", 0.0))
        block = options.get("block_length", 1)
        outcome = judge_latency(
            candidate, baseline, quantile, 1.0, 0.05, num_resamples=300, seed=seed, block_length=block
        )
        found += outcome.verdict is Verdict.PASS
    return found / runs


@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_judge_latency_keeps_its_size_when_the_ratio_is_the_limit(quantile):
    assert passes(300, quantile, runs=200) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_judge_latency_needs_blocks_when_samples_correlate():
    assert passes(300, 0.5, runs=80, correlation=0.6) > 0.1
    assert passes(300, 0.5, runs=80, correlation=0.6, block_length=10) <= 0.1


def test_judge_latency_takes_well_under_a_second_for_2000_resamples_of_300_samples():
    candidate, baseline = samples(300, seed=4)
    started = time.process_time()
    judge_latency(candidate, baseline, 0.95, 1.0, 0.05)
    assert time.process_time() - started < 1.0


def test_resampled_positions_draw_neighbours_together():
    positions = np.concatenate(list(resampled_positions(20, 50, seed=0, block_length=5)))
    assert positions.shape == (50, 20)
    steps = (np.diff(positions.reshape(50, 4, 5), axis=2)) % 20
    assert (steps == 1).all()
    assert set(positions.ravel()) == set(range(20))


def test_resampled_positions_come_in_chunks_when_there_are_many():
    chunks = list(resampled_positions(3_000_000, 3, seed=0))
    assert [len(chunk) for chunk in chunks] == [1, 1, 1]


def test_samples_to_settle_scales_with_the_square_of_the_distance():
    near = samples_to_settle(100, 0.1, 0.05, 0.05, 0.8)
    assert near == pytest.approx(100 * (0.1 * 2.4865 / 0.05) ** 2, rel=1e-3)
    assert samples_to_settle(100, 0.1, -0.1, 0.05, 0.8) == pytest.approx(near / 4, rel=0.01)
    assert samples_to_settle(100, 0.1, 0.0, 0.05, 0.8) is None
