import math

import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency, ks_2samp

from tasks.decisions.drift import class_test, ks_test, mmd_test, psi_test, worth_of_classes
from tests.decisions.traffic_model import DOUBLED, EVEN, answered, stratified_reference


def normal(num, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal(num) + shift


def test_ks_test_of_a_case_worked_by_hand():
    test = ks_test(np.array([1.0, 2.0, 3.0]), np.array([2.5, 3.5, 4.5, 5.5]), 0.05)
    assert test.statistic == pytest.approx(3 / 4)  # just below 3.5: all three of the window, one of four


@pytest.mark.parametrize(("shift", "sizes"), [(0.0, (300, 700)), (0.2, (500, 500)), (0.5, (120, 2000))])
def test_ks_test_agrees_with_scipy(shift, sizes):
    window, reference = normal(sizes[0], 1, shift), normal(sizes[1], 2)
    ours, theirs = ks_test(window, reference, 0.01), ks_2samp(window, reference, method="asymp")
    assert ours.statistic == pytest.approx(theirs.statistic)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-6)
    exact = ks_2samp(window, reference, method="exact").pvalue
    assert ours.p_value == pytest.approx(exact, rel=0.25, abs=1e-8)


def test_ks_test_states_the_smallest_distance_that_it_finds():
    num = 400
    detectable = ks_test(normal(num, 3), normal(num, 4), 0.001).detectable
    evenly = np.arange(num) / num
    moved = evenly + detectable  # the distance of the two is the shift itself
    assert ks_test(moved + 0.004, evenly, 0.001).p_value < 0.001
    assert ks_test(moved - 0.004, evenly, 0.001).p_value > 0.001


def test_psi_test_of_a_case_worked_by_hand():
    reference = np.repeat(np.arange(10.0), 10)
    window = np.concatenate([np.repeat(np.arange(10.0), 10), np.full(100, 9.0)])
    q, p = np.full(10, 10.5 / 105), np.full(10, 10.5 / 205)
    p[9] = 110.5 / 205
    assert psi_test(window, reference, 0.05).statistic == pytest.approx(np.sum((p - q) * np.log(p / q)))


@pytest.mark.parametrize("num", [100, 10_000])
def test_psi_test_has_the_known_null_quantile(num):
    # the 95 % quantile of PSI without drift: 0.34 with 100 rows each, 0.0034 with 10,000
    values = [psi_test(normal(num, 2 * s), normal(num, 2 * s + 1), 0.05).statistic for s in range(300)]
    assert np.quantile(values, 0.95) == pytest.approx(chi2.isf(0.05, 9) * 2 / num, rel=0.15)


def test_psi_test_finds_a_change_of_a_value_that_was_constant():
    assert psi_test(np.full(200, 0.5), np.full(300, 0.5), 0.001).p_value > 0.9
    assert psi_test(np.full(200, 0.6), np.full(300, 0.5), 0.001).p_value < 1e-9
    assert psi_test(np.full(200, 0.4), np.full(300, 0.5), 0.001).p_value < 1e-9


def test_class_test_agrees_with_scipy():
    window, reference = np.array([60, 30, 10, 25]), np.array([100, 90, 60, 50])
    theirs = chi2_contingency(np.stack([window, reference]), correction=False)
    ours = class_test(window, reference, 0.01)
    assert (ours.statistic, ours.p_value) == pytest.approx((theirs.statistic, theirs.pvalue))
    rows = 125 * 300 / 425
    assert ours.effect == pytest.approx(math.sqrt((theirs.statistic - 3) / rows))


def test_class_test_pools_rare_classes_and_is_silent_about_one_class():
    window, reference = np.array([200, 200, 1, 0, 1]), np.array([200, 200, 0, 1, 0])
    pooled = class_test(np.array([200, 200, 2]), np.array([200, 200, 1]), 0.01)
    assert class_test(window, reference, 0.01) == pooled
    assert class_test(np.array([0, 50]), np.array([0, 80]), 0.01).p_value == 1.0


def test_mmd_test_agrees_with_loops_over_pairs():
    window, reference = np.random.default_rng(5).normal(0.3, 1, (12, 3)), np.random.default_rng(6).normal(0, 1, (10, 3))
    distances = [np.linalg.norm(a - b) for i, a in enumerate(reference) for b in reference[i + 1 :]]
    width = np.median(distances)

    def kernel(a, b):
        return math.exp(-np.sum((a - b) ** 2) / (2 * width**2))

    x, x_other, y, y_other = window[:6], window[6:], reference[:5], reference[5:]

    def witness(point):
        return np.mean([kernel(point, one) for one in x_other]) - np.mean([kernel(point, one) for one in y_other])

    at_x, at_y = np.array([witness(point) for point in x]), np.array([witness(point) for point in y])
    squared = at_x.mean() - at_y.mean()
    score = squared / math.sqrt(at_x.var(ddof=1) / 6 + at_y.var(ddof=1) / 5)
    ours = mmd_test(window, reference, 0.01)
    assert ours.statistic == pytest.approx(score)
    assert ours.effect == pytest.approx(math.sqrt(max(0.0, squared)))


def test_mmd_test_sees_a_dependence_that_no_single_coordinate_shows():
    generator = np.random.default_rng(7)
    reference = generator.standard_normal((500, 2))
    one = generator.standard_normal(500)
    window = np.stack([one, 0.9 * one + math.sqrt(1 - 0.81) * generator.standard_normal(500)], axis=1)
    assert min(ks_test(window[:, i], reference[:, i], 0.01).p_value for i in (0, 1)) > 0.01
    assert mmd_test(window, reference, 0.01).p_value < 1e-4


def test_mmd_test_is_silent_when_all_rows_are_equal():
    assert mmd_test(np.ones((50, 8)), np.ones((60, 8)), 0.01).p_value == 0.5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sizes", [(300, 700), (500, 215), (100, 1000)])
def test_no_test_alarms_more_often_than_its_level(sizes):
    runs, alpha = 1000, 0.05
    generator = np.random.default_rng(8)
    below = dict.fromkeys(("ks", "psi", "classes", "mmd"), 0)
    for _ in range(runs):
        a, b = generator.standard_normal((sizes[0], 8)), generator.standard_normal((sizes[1], 8))
        counts = [generator.multinomial(len(rows), np.full(10, 0.1)) for rows in (a, b)]
        below["ks"] += ks_test(a[:, 0], b[:, 0], alpha).p_value <= alpha
        below["psi"] += psi_test(a[:, 0], b[:, 0], alpha).p_value <= alpha
        below["classes"] += class_test(*counts, alpha).p_value <= alpha
        below["mmd"] += mmd_test(a[:150], b[:150], alpha).p_value <= alpha
    limit = runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))
    assert {name: count for name, count in below.items() if count > limit} == {}


def test_worth_of_classes_is_what_was_counted_where_data_and_answers_are_of_the_same_rows():
    answered_rows = np.array([[90, 6, 4], [5, 50, 5], [2, 3, 35]])
    worth = worth_of_classes(answered_rows.sum(axis=1), answered_rows)
    assert worth / worth.sum() == pytest.approx(answered_rows.sum(axis=0) / 200)
    assert worth.sum() == pytest.approx(200, rel=0.02)  # but for the pseudo-rows


def test_worth_of_classes_of_a_model_without_mistakes_is_nearly_all_the_data():
    worth = worth_of_classes(np.array([500, 500]), np.array([[50, 0], [0, 50]]))
    assert worth / worth.sum() == pytest.approx([0.5, 0.5])
    assert worth.sum() == pytest.approx(1000)


def test_worth_of_classes_is_as_exact_as_it_says():
    generator = np.random.default_rng(8)
    found = [worth_of_classes(*stratified_reference(generator, 1797, right=0.93)) for _ in range(500)]
    shares = np.array([worth / worth.sum() for worth in found])
    said = np.mean([(share * (1 - share)).sum() / worth.sum() for share, worth in zip(shares, found, strict=True)])
    assert shares.var(axis=0).sum() == pytest.approx(said, rel=0.15)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_class_test_keeps_its_level_against_a_stratified_reference(alpha):
    generator = np.random.default_rng(9)
    num = 3000
    false = 0
    for _ in range(num):
        reference = worth_of_classes(*stratified_reference(generator, 1797))
        false += class_test(answered(generator, 500, EVEN), reference, alpha).p_value < alpha
    assert abs(false / num - alpha) < 4 * math.sqrt(alpha / num)


def test_class_test_finds_a_doubled_class_that_the_validation_rows_alone_do_not_show():
    generator = np.random.default_rng(10)
    alone = together = 0
    for _ in range(200):
        data, rows = stratified_reference(generator, 1797)
        window = answered(generator, 500, DOUBLED)
        alone += class_test(window, rows.sum(axis=0), 0.0005).p_value < 0.0005
        together += class_test(window, worth_of_classes(data, rows), 0.0005).p_value < 0.0005
    assert alone < 80
    assert together > 130
