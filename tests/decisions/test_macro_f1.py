import numpy as np
import pytest
from sklearn.metrics import f1_score

from tasks.contracts.verdict import Verdict
from tasks.decisions.macro_f1 import judge_macro_f1_drop

NUM_CLASSES = 4


def draw(generator: np.random.Generator, num: int, candidate_error: float, baseline_error: float):
    """Labels of unequal classes, and answers that are wrong at the given rates, anywhere."""
    labels = generator.choice(NUM_CLASSES, size=num, p=[0.5, 0.3, 0.15, 0.05])

    def answers(error: float) -> np.ndarray:
        wrong = generator.random(num) < error
        return np.where(wrong, (labels + generator.integers(1, NUM_CLASSES, num)) % NUM_CLASSES, labels)

    return labels, answers(candidate_error), answers(baseline_error)


def test_judge_macro_f1_drop_is_the_difference_of_the_scores():
    labels, ours, theirs = draw(np.random.default_rng(0), 2000, 0.2, 0.1)
    outcome = judge_macro_f1_drop(labels, ours, theirs, NUM_CLASSES, 0.01, 0.05)
    expected = f1_score(labels, theirs, average="macro") - f1_score(labels, ours, average="macro")
    assert outcome.estimate == pytest.approx(expected, abs=1e-12)
    assert outcome.verdict is Verdict.FAIL
    assert 0.01 < outcome.lower < outcome.estimate < outcome.upper


def test_judge_macro_f1_drop_has_the_bounds_of_a_bootstrap_over_rows():
    generator = np.random.default_rng(1)
    labels, ours, theirs = draw(generator, 400, 0.15, 0.1)
    outcome = judge_macro_f1_drop(labels, ours, theirs, NUM_CLASSES, 0.01, 0.05, num_resamples=4000)
    draws = []
    for _ in range(1000):
        rows = generator.integers(0, 400, 400)
        scores = [f1_score(labels[rows], answers[rows], average="macro") for answers in (theirs, ours)]
        draws.append(scores[0] - scores[1])
    lower, upper = np.quantile(draws, [0.05, 0.95])
    spread = np.std(draws)
    # two bootstraps of 1,000 and 4,000 draws: a quantile's own standard error is some 0.07 of the spread
    assert outcome.lower == pytest.approx(lower, abs=0.3 * spread)
    assert outcome.upper == pytest.approx(upper, abs=0.3 * spread)


def test_judge_macro_f1_drop_seldom_passes_a_candidate_at_the_margin():
    # the population's drop is the margin itself, so that a pass is false; 5 % of 400 runs are 20, and 33 are 3 sigma
    generator = np.random.default_rng(2)
    population = draw(generator, 200_000, 0.13, 0.1)
    labels, ours, theirs = population
    margin = f1_score(labels, theirs, average="macro") - f1_score(labels, ours, average="macro")
    passes = 0
    for run in range(400):
        rows = generator.integers(0, len(labels), 2000)
        outcome = judge_macro_f1_drop(
            labels[rows], ours[rows], theirs[rows], NUM_CLASSES, margin, 0.05, num_resamples=400, seed=run
        )
        passes += outcome.verdict is Verdict.PASS
    assert passes <= 33


def test_judge_macro_f1_drop_counts_a_row_without_an_answer_as_missed():
    labels = np.arange(300) % 3
    silent = labels.copy()
    silent[:30] = 3  # no answer
    outcome = judge_macro_f1_drop(labels, silent, labels, 3, 0.01, 0.05)
    assert outcome.estimate == pytest.approx(1 - 2 * 90 / (90 + 100))  # each class: 90 of 100 found, no false claim


def test_judge_macro_f1_drop_is_inconclusive_when_rows_are_few():
    labels = np.arange(99) % 3
    outcome = judge_macro_f1_drop(labels, labels, labels, 3, 0.01, 0.05)
    assert (outcome.verdict, outcome.num_rows_needed) == (Verdict.INCONCLUSIVE, 100)


def test_judge_macro_f1_drop_passes_equal_answers():
    labels, ours, _ = draw(np.random.default_rng(3), 500, 0.1, 0.1)
    outcome = judge_macro_f1_drop(labels, ours, ours, NUM_CLASSES, 0.01, 0.05)
    assert (outcome.verdict, outcome.estimate, outcome.upper) == (Verdict.PASS, 0.0, 0.0)
