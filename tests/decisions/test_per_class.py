import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from tasks.contracts.verdict import Verdict
from tasks.decisions.per_class import holm_rejections, judge_classes


@pytest.mark.parametrize("seed", range(6))
def test_holm_rejections_equal_statsmodels(seed):
    p_values = list(np.random.default_rng(seed).uniform(0, 1, 8) ** 4)
    expected = multipletests(p_values, 0.1, method="holm")[0]
    assert holm_rejections(p_values, 0.1) == list(expected)


def test_holm_rejections_stop_at_the_first_hypothesis_that_is_kept():
    # 0.01 <= 0.05 / 3, but 0.03 > 0.05 / 2; 0.04 <= 0.05 / 1 does not count any more
    assert holm_rejections([0.03, 0.01, 0.04], 0.05) == [False, True, False]


def test_judge_classes_finds_the_class_that_was_given_up():
    labels = np.repeat([0, 1, 2], [2000, 2000, 20])
    baseline_right = np.ones(4020, dtype=bool)
    candidate_right = baseline_right.copy()
    candidate_right[2000:2400] = False  # a fifth of class 1
    answers = judge_classes(labels, baseline_right, candidate_right, ("a", "b", "c", "d"), 0.05, 0.05, 0.8)
    assert [answer.name for answer in answers] == ["a", "b", "c", "d"]
    assert [answer.verdict for answer in answers] == [
        Verdict.PASS,
        Verdict.FAIL,
        Verdict.INCONCLUSIVE,  # 20 rows without a mistake do not show 5 points
        Verdict.INCONCLUSIVE,  # no row at all
    ]
    assert answers[2].outcome.num_rows_needed > 20
    assert answers[3].outcome is None


@pytest.mark.parametrize("seed", range(3))
def test_judge_classes_rarely_passes_any_class_when_all_are_at_the_margin(seed):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(5), 400)
    wrong = 0
    for _ in range(100):
        candidate_right = generator.random(2000) >= 0.05
        answers = judge_classes(labels, np.ones(2000, dtype=bool), candidate_right, tuple("abcde"), 0.05, 0.05, 0.8)
        wrong += any(answer.verdict is Verdict.PASS for answer in answers)
    assert wrong <= 5 + 3 * np.sqrt(100 * 0.05 * 0.95)
