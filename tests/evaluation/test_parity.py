import math
from fractions import Fraction

import numpy as np
import pytest

from tasks.contracts.errors import ModelError
from tasks.evaluation.parity import Parity, ParityTolerance, measure_parity, require_parity


def test_measure_parity_equals_the_case_by_hand():
    original = np.array([[0.0, 4.0], [2.0, 1.0], [3.0, 3.5], [-1.0, 0.0]])  # range 5
    copy = np.array([[0.0, 4.0], [2.0, 1.5], [3.6, 3.5], [-1.0, 0.0]])  # largest difference 0.6, row 2 flips
    parity = measure_parity(original, copy)
    assert parity.num_rows == 4
    assert parity.max_relative_difference == pytest.approx(0.12)
    assert parity.agreement == 0.75


def test_measure_parity_does_not_overflow():
    original = np.array([[3e38, -3e38]], dtype=np.float32)
    assert measure_parity(original, -original).max_relative_difference == pytest.approx(1.0)


def test_measure_parity_has_no_agreement_when_there_is_one_output():
    parity = measure_parity(np.array([[1.0], [3.0]]), np.array([[1.0], [3.5]]))
    assert parity.agreement is None
    assert "parity_agreement" not in parity.details()


@pytest.mark.parametrize(("copy", "expected"), [(5.0, 0.0), (5.1, np.inf)])
def test_measure_parity_is_zero_or_infinite_when_the_original_is_constant(copy, expected):
    assert measure_parity(np.full((3, 2), 5.0), np.full((3, 2), copy)).max_relative_difference == expected


def test_measure_parity_counts_the_rows_when_outputs_are_not_finite():
    broken = np.array([[1.0, np.nan], [np.inf, np.nan], [1.0, 2.0]])
    with pytest.raises(ModelError, match="the copy gives NaN or infinite outputs for 2 of 3 rows"):
        measure_parity(np.ones((3, 2)), broken)


@pytest.mark.parametrize("shape", [(2, 3), (0, 2)])
def test_measure_parity_raises_when_rows_cannot_be_compared(shape):
    with pytest.raises(ModelError, match="cannot be compared"):
        measure_parity(np.zeros((0, 2)), np.zeros(shape))


def test_require_parity_gives_the_figures_when_the_difference_is_too_large():
    broken = Parity(num_rows=50, max_relative_difference=0.02, agreement=1.0)
    with pytest.raises(ModelError, match=r"up to 2\.000% of their range on 50 rows, 0\.100% is allowed"):
        require_parity(broken, ParityTolerance())


def test_require_parity_gives_the_figures_when_too_few_rows_agree():
    broken = Parity(num_rows=50, max_relative_difference=0.0005, agreement=0.92)
    with pytest.raises(ModelError, match=r"agrees on 92\.00% of 50 rows, too few for a copy that agrees on 99\.50%"):
        require_parity(broken, ParityTolerance())


@pytest.mark.parametrize(
    ("num_rows", "num_failures", "is_stopped"),
    # where P(X >= k) of the binomial distribution with rate 0.005 crosses 0.001
    [(10, 2, False), (10, 3, True), (256, 6, False), (256, 7, True), (10_000, 73, False), (10_000, 74, True)],
)
def test_require_parity_stops_only_what_the_rows_prove(num_rows, num_failures, is_stopped):
    independent = sum(
        math.comb(num_rows, k) * Fraction(5, 1000) ** k * Fraction(995, 1000) ** (num_rows - k)
        for k in range(num_failures)
    )
    assert (1 - independent < Fraction(1, 1000)) is is_stopped
    parity = Parity(num_rows=num_rows, max_relative_difference=0.0, agreement=1 - num_failures / num_rows)
    if is_stopped:
        with pytest.raises(ModelError, match="parity is broken: the top class agrees"):
            require_parity(parity, ParityTolerance())
    else:
        require_parity(parity, ParityTolerance())


def test_require_parity_accepts_figures_on_the_limits():
    limits = ParityTolerance(max_relative_difference=0.03, min_agreement=0.99)
    require_parity(Parity(num_rows=100, max_relative_difference=0.03, agreement=0.99), limits)
