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


def weighted_macro_f1(labels: np.ndarray, answers: np.ndarray, weights: np.ndarray) -> float:
    right = labels == answers
    hits = np.bincount(labels[right], weights[right], NUM_CLASSES)
    claims = np.bincount(labels, weights, NUM_CLASSES) + np.bincount(answers, weights, NUM_CLASSES)
    return float(np.mean(2 * hits / claims))


def test_judge_macro_f1_drop_has_the_bounds_of_rows_that_are_weighted_one_by_one():
    generator = np.random.default_rng(1)
    labels, ours, theirs = draw(generator, 400, 0.2, 0.15)
    outcome = judge_macro_f1_drop(labels, ours, theirs, NUM_CLASSES, 0.01, 0.05, num_resamples=10_000)
    # the worst row: of the rarest class, taken for the second rarest by one of the models
    rows = np.append(labels, 3)
    draws = {"worst": [], "best": []}
    for weights in generator.exponential(size=(2000, 401)):
        for name, answers, others in (("worst", 2, 3), ("best", 3, 2)):
            scores = [weighted_macro_f1(rows, np.append(*who), weights) for who in ((theirs, others), (ours, answers))]
            draws[name].append(scores[0] - scores[1])
    spread = np.std(draws["worst"])
    # a quantile's own standard error is 2.1 of the spread over the root of the draws: 0.05 for 2,000
    assert outcome.upper == pytest.approx(np.quantile(draws["worst"], 0.95), abs=0.2 * spread)
    assert outcome.lower == pytest.approx(np.quantile(draws["best"], 0.05), abs=0.2 * spread)


def test_judge_macro_f1_drop_bounds_equal_answers_by_the_worst_row_there_can_be():
    # two classes of 100 rows, all right: half a lost row of weight w = 0.5 E takes, of the F1 of its class,
    # 1 - 2 n / (2 n + w) with n the rows' weight, some w / (2 n), and as much of the other's; a mean of both
    labels = np.arange(200) % 2
    outcome = judge_macro_f1_drop(labels, labels, labels, 2, 0.01, 0.05, num_resamples=20_000)
    assert outcome.upper == pytest.approx(0.5 * -np.log(0.05) / 200, rel=0.05)
    assert (outcome.lower, outcome.estimate) == (pytest.approx(-outcome.upper), 0.0)
    assert outcome.verdict is Verdict.PASS


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


def test_judge_macro_f1_drop_leaves_classes_out_that_do_not_occur():
    labels, ours, theirs = draw(np.random.default_rng(3), 500, 0.1, 0.1)
    outcomes = [judge_macro_f1_drop(labels, ours, theirs, num, 0.01, 0.05) for num in (NUM_CLASSES, NUM_CLASSES + 3)]
    # one that has no answer is numbered by the classes that there are; nobody is silent here
    assert outcomes[0] == outcomes[1]


@pytest.mark.slow
@pytest.mark.parametrize(("num", "rare"), [(1000, 0.05), (300, 0.05), (1000, 0.02)])
def test_judge_macro_f1_drop_keeps_its_size_when_a_class_is_rare(num, rare):
    # on 3 % of the rows, of every class alike, the candidate is wrong whatever the baseline says
    generator, runs, passed = np.random.default_rng([num, int(100 * rare)]), 1500, 0

    def drawn(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = (generator.random(rows) < rare).astype(np.int64)
        theirs = np.where(generator.random(rows) < 0.1, 1 - labels, labels)
        return labels, np.where(generator.random(rows) < 0.03, 1 - labels, theirs), theirs

    labels, ours, theirs = drawn(4_000_000)
    margin = f1_score(labels, theirs, average="macro") - f1_score(labels, ours, average="macro")
    for seed in range(runs):
        outcome = judge_macro_f1_drop(*drawn(num), 2, margin, 0.05, num_resamples=400, seed=seed)
        passed += outcome.verdict is Verdict.PASS
    assert passed / runs <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / runs)
