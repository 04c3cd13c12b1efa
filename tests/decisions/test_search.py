"""What a search holds out, and which chains it sends to the gate."""

import numpy as np
import pytest

from tasks.contracts.search import Excess, HalfScores, Trial, TrialFigures
from tasks.decisions.gate_policy import Constraints
from tasks.decisions.search import choose_finalists, excess_of, halves, objectives

WITHIN = Excess(tuned=-0.01, held=-0.01, size=-0.5)


def figures(tuned: float = 0.9, held: float = 0.9, size: int = 1000, flops: int = 100) -> TrialFigures:
    return TrialFigures(scores=HalfScores(tuned=tuned, held=held), size_bytes=size, flops=flops)


def trial(number: int, excess: Excess | None = WITHIN, **reached: float) -> Trial:
    of = None if excess is None else figures(**reached)  # type: ignore[arg-type]
    return Trial(number=number, candidate="small", figures=of, excess=excess)


def test_halves_share_all_rows_and_have_the_same_labels() -> None:
    y = np.random.default_rng(0).integers(0, 7, size=301)
    tuned, held = halves(y, seed=3)
    assert sorted([*tuned, *held]) == list(range(301))
    assert (len(tuned), len(held)) == (151, 150)
    counts = [np.bincount(y[half], minlength=7) for half in (tuned, held)]
    assert np.abs(counts[0] - counts[1]).max() <= 1


def test_halves_of_a_regression_have_like_targets() -> None:
    y = np.random.default_rng(0).lognormal(size=500)
    tuned, held = halves(y, seed=0)
    assert np.median(y[tuned]) == pytest.approx(np.median(y[held]), rel=0.02)


def test_halves_follow_from_the_seed() -> None:
    y = np.zeros(100, dtype=np.int64)
    first, again, other = (halves(y, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_halves_need_a_row_each() -> None:
    with pytest.raises(ValueError, match="it has 1 rows"):
        halves(np.zeros(1), seed=0)


def test_excess_is_what_a_chain_is_beyond_each_limit() -> None:
    constraints = Constraints(max_accuracy_drop=0.02, max_size_ratio=0.1, max_size_bytes=500)
    found = excess_of("accuracy", figures(0.95, 0.99, size=750), figures(0.98, 0.98, size=10_000), constraints)
    assert (found.tuned, found.held) == pytest.approx((0.01, -0.03))
    assert found.size == pytest.approx(0.5), "500 bytes are less than a tenth of 10,000"
    assert excess_of("accuracy", figures(), figures(), Constraints()).size == 0.0


def test_excess_of_a_regression_is_relative_to_the_baselines_error() -> None:
    found = excess_of("rmse", figures(2.2, 1.9), figures(2.0, 2.0), Constraints(max_rmse_increase=0.05))
    assert (found.tuned, found.held) == pytest.approx((0.05, -0.1))


def test_objectives_count_an_error_negative() -> None:
    assert objectives("rmse", figures(tuned=2.0, held=3.0), held=True)["quality"] == -3.0
    assert objectives("accuracy", figures(tuned=0.8, held=0.9), held=False)["quality"] == 0.8


def test_finalists_are_of_the_front_on_the_held_half_the_preferred_first() -> None:
    trials = [
        trial(0, held=0.90, tuned=0.99, size=100),
        trial(1, held=0.95, size=200),
        trial(2, held=0.94, tuned=1.0, size=250),  # 1 beats it on the held half
        trial(3, held=0.96, size=300),
        trial(4, held=0.98, size=400),
    ]
    assert choose_finalists(trials, "accuracy", "smallest", 2) == (0, 4)
    assert choose_finalists(trials, "accuracy", "smallest", 4) == (0, 1, 3, 4)
    assert choose_finalists(trials, "accuracy", "smallest", 9) == (0, 1, 3, 4)
    assert choose_finalists(trials, "accuracy", "most_accurate", 1) == (4,)


def test_finalists_of_those_who_want_speed_are_those_with_few_operations() -> None:
    trials = [trial(0, size=100, flops=900), trial(1, size=300, flops=100)]
    assert choose_finalists(trials, "accuracy", "fastest", 1) == (1,)
    assert choose_finalists(trials, "accuracy", "smallest", 1) == (0,)


@pytest.mark.parametrize("beyond", ["tuned", "held", "size"])
def test_a_chain_beyond_a_limit_is_no_finalist(beyond: str) -> None:
    missed = WITHIN.model_copy(update={beyond: 0.001})
    assert choose_finalists([trial(0, missed), trial(1, None)], "accuracy", "smallest", 3) == ()


def test_equal_chains_are_one_finalist() -> None:
    assert choose_finalists([trial(0), trial(1), trial(2)], "accuracy", "smallest", 3) == (0,)


def test_the_held_half_does_not_flatter_what_was_chosen_on_the_tuned_half() -> None:
    """Monte Carlo: of 50 equal chains the best on one half seems better than it is there, and not on the other."""
    generator = np.random.default_rng(0)
    y = np.zeros(200, dtype=np.int64)
    tuned_gain, held_gain = [], []
    for seed in range(400):
        right = generator.random((50, 200)) < 0.9
        tuned, held = halves(y, seed)
        best = right[:, tuned].mean(axis=1).argmax()
        tuned_gain.append(right[best, tuned].mean() - 0.9)
        held_gain.append(right[best, held].mean() - 0.9)
    assert np.mean(tuned_gain) > 0.05
    assert abs(np.mean(held_gain)) < 4 * 0.03 / np.sqrt(400), "four standard errors: a half has 100 rows"
