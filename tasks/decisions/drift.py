"""Do two samples come from one distribution? Four tests, each with an effect size and what it could have found.

Dimension legend: N rows of the window, M rows of the reference, D features, C classes, B bins. Rows are taken as
independent. n_eff = N M / (N + M) is the harmonic size on which every two-sample test here depends.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from scipy.stats import chi2, kstwo, norm

Floats = NDArray[np.float64]

NUM_BINS = 10
"""Of the population stability index; its rule of thumb (0.1, 0.25) is about ten bins."""
_MEDIAN_ROWS = 500
"""Rows from which the kernel's width is taken."""
_MIN_EXPECTED = 5.0
"""Classes that are expected less often than this in either sample are pooled (Cochran 1954)."""


@dataclass(frozen=True)
class DriftTest:
    """The answer of one test."""

    statistic: float
    p_value: float
    effect: float
    """How far apart the samples are, in the test's own unit, with what chance alone would give taken off."""
    detectable: float
    """The smallest effect that would have been significant at the level that was asked for."""


def ks_test(window_N: Floats, reference_M: Floats, alpha: float) -> DriftTest:
    """Compare two samples of a continuous value by the two-sample Kolmogorov-Smirnov test.

    D = sup |F_N - F_M|, the largest distance of the empirical distribution functions; its p-value is that of the
    one-sample statistic with round(n_eff) rows (Hodges 1958; as `scipy.stats.ks_2samp(method="asymp")`). With ties
    the test is conservative. The effect is D itself; a shift of a normal value by s standard deviations gives
    D = 2 Phi(s / 2) - 1, about 0.4 s.

    Args:
        window_N: N values, finite.
        reference_M: M values, finite.
        alpha: level of `detectable`.
    """
    window, reference = np.sort(window_N), np.sort(reference_M)
    points = np.concatenate([window, reference])
    below_window = np.searchsorted(window, points, side="right") / len(window)
    below_reference = np.searchsorted(reference, points, side="right") / len(reference)
    distance = float(np.abs(below_window - below_reference).max())
    rows = max(1, round(_effective(len(window), len(reference))))
    return DriftTest(distance, float(kstwo.sf(distance, rows)), distance, _detectable_distance(alpha, rows))


def psi_test(window_N: Floats, reference_M: Floats, alpha: float) -> DriftTest:
    """Compare two samples by the population stability index over the reference's deciles.

    PSI = sum_b (p_b - q_b) ln(p_b / q_b), shares p of the window and q of the reference, each with half a row added
    to every bin so that an empty one does not make it infinite. Without drift PSI / (1/N + 1/M) is chi-square with
    B - 1 degrees of freedom (Yurdakul & Naranjo 2020): its usual limits 0.1 and 0.25 are exceeded by chance in small
    samples and meaningless in large ones. The effect is PSI minus its mean without drift, (B - 1)(1/N + 1/M).

    Values that repeat merge bins; a reference of one value is compared by "below, equal, above".

    Args:
        window_N: N values, finite.
        reference_M: M values, finite.
        alpha: level of `detectable`.
    """
    edges = np.unique(np.quantile(reference_M, np.arange(1, NUM_BINS) / NUM_BINS))
    if len(edges) == 1:
        edges = np.array([np.nextafter(edges[0], -np.inf), edges[0]])
    window, reference = (_bin_shares(values, edges) for values in (window_N, reference_M))
    index = float(np.sum((window - reference) * np.log(window / reference)))
    scale, freedom = 1.0 / len(window_N) + 1.0 / len(reference_M), len(edges)
    p_value = float(chi2.sf(index / scale, freedom))
    return DriftTest(
        index, p_value, max(0.0, index - freedom * scale), float(chi2.isf(alpha, freedom) - freedom) * scale
    )


def class_test(window_C: NDArray[np.int64], reference_C: NDArray[np.int64] | Floats, alpha: float) -> DriftTest:
    """Compare how often each class was predicted, by the chi-square test of homogeneity on a 2 x C table.

    Classes that are too rare for the approximation are pooled into one. The effect is Cohen's w, here
    sqrt(max(0, X2 - df) / n_eff): 0.1 is called small, 0.3 medium (Cohen 1988). Taking off the degrees of freedom
    removes what chance alone adds.

    Args:
        window_C: rows of the window per class.
        reference_C: rows of the reference per class; from `worth_of_classes` not whole numbers.
        alpha: level of `detectable`.
    """
    table = _pooled(np.stack([window_C, reference_C]).astype(np.float64))
    freedom = table.shape[1] - 1
    if freedom < 1:
        return DriftTest(0.0, 1.0, 0.0, math.inf)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    rows = _effective(*table.sum(axis=1))
    effect = math.sqrt(max(0.0, statistic - freedom) / rows)
    detectable = math.sqrt((chi2.isf(alpha, freedom) - freedom) / rows)
    return DriftTest(statistic, float(chi2.sf(statistic, freedom)), effect, detectable)


def worth_of_classes(data_C: NDArray[np.int64], answered_CC: NDArray[np.int64]) -> Floats:
    """Return how often each class is predicted without drift, as rows of a simple sample that would be as exact [C].

    The labels of all data say how often a class comes, pi_y = data_y / L; labelled rows that the model did not learn
    from say how it answers to that class, A_yc. Its answers are then q_c = sum_y pi_y A_yc (post-stratification;
    Holt & Smith 1979). Rows that were drawn by class (stratified) tell q far more exactly than as many rows drawn by
    lot: its covariance is A' (diag(pi) - pi pi') A / L + sum_y pi_y^2 (diag(A_y) - A_y A_y') / m_y. The effective size
    is sum_c q_c (1 - q_c) / sum_c var(q_c), by which a chi-square test takes q as counts (Rao & Scott 1984, first
    order). Where data and answers are of the same rows, this is about what was counted.

    In the second term one pseudo-row, right as often as the model is, is added to each class: without it, classes
    that it answered without a mistake would be known for certain.

    Args:
        data_C: rows of the data per true class, L in all.
        answered_CC: rows by true class y and predicted class c; m_y >= 1 in each row y of which there are data.
    """
    num_rows_C = answered_CC.sum(axis=1)
    pi_C = data_C / data_C.sum()
    answers_CC = answered_CC / np.maximum(num_rows_C, 1)[:, None]
    q_C = pi_C @ answers_CC
    drawn_C = (pi_C @ answers_CC**2 - q_C**2) / data_C.sum()
    right = float(np.trace(answered_CC) / num_rows_C.sum())
    smoothed_CC = (answered_CC + _usual_answers(len(pi_C), right)) / (num_rows_C + 1.0)[:, None]
    answering_C = pi_C**2 @ (smoothed_CC * (1.0 - smoothed_CC) / np.maximum(num_rows_C, 1)[:, None])
    size = float((q_C * (1.0 - q_C)).sum() / (drawn_C + answering_C).sum())
    worth: Floats = q_C * size
    return worth


def mmd_test(window_ND: Floats, reference_MD: Floats, alpha: float) -> DriftTest:
    """Compare two samples of vectors by the cross maximum mean discrepancy with a Gaussian kernel.

    Shekhar, Kim & Ramdas 2022, "A permutation-free kernel two-sample test": both samples are halved; the second
    halves give the witness f = mean k(., x) - mean k(., y), the first halves are averaged over it, and
    xMMD2 = mean f(x) - mean f(y) divided by its standard error is standard normal without drift, whatever the kernel,
    with none of the many permutations that a small p-value would need. xMMD2 is an unbiased estimate
    of MMD2; the effect is sqrt(max(0, xMMD2)), from 0 to sqrt(2).

    k(x, y) = exp(-|x - y|^2 / (2 h^2)), h the median distance within the reference (Gretton et al. 2012). Columns are
    taken as they come: scale them alike. Cost N M; bound the rows.

    Args:
        window_ND: N rows, in any order that does not depend on their values; N >= 4.
        reference_MD: M rows, likewise.
        alpha: level of `detectable`.
    """
    width = float(np.median(pdist(reference_MD[:_MEDIAN_ROWS]))) or 1.0
    (x, x_other), (y, y_other) = (np.array_split(rows, 2) for rows in (window_ND, reference_MD))
    at_x = _kernel(x, x_other, width).mean(axis=1) - _kernel(x, y_other, width).mean(axis=1)
    at_y = _kernel(y, x_other, width).mean(axis=1) - _kernel(y, y_other, width).mean(axis=1)
    squared = float(at_x.mean() - at_y.mean())
    error = math.sqrt(float(at_x.var(ddof=1)) / len(x) + float(at_y.var(ddof=1)) / len(y))
    score = squared / error if error else 0.0
    detectable = math.sqrt(norm.isf(alpha) * error)
    return DriftTest(score, float(norm.sf(score)), math.sqrt(max(0.0, squared)), detectable)


def _usual_answers(num_classes: int, right: float) -> Floats:
    """Return the answers [C, C] of a model that is right so often, whatever the class."""
    wrong = (1.0 - right) / max(num_classes - 1, 1)
    answers: Floats = np.full((num_classes, num_classes), wrong)
    np.fill_diagonal(answers, right)
    return answers


@functools.lru_cache(maxsize=64)
def _detectable_distance(alpha: float, rows: int) -> float:
    """Return the smallest distance that is significant; all features of a window ask for the same, by a slow search."""
    return float(kstwo.isf(alpha, rows))


def _effective(num_window: float, num_reference: float) -> float:
    return num_window * num_reference / (num_window + num_reference)


def _bin_shares(values: Floats, edges: Floats) -> Floats:
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) + 0.5
    shares: Floats = counts / counts.sum()
    return shares


def _pooled(table_2C: Floats) -> Floats:
    """Merge the classes that are expected too rarely in either row of the table, and drop empty ones."""
    table = table_2C[:, table_2C.sum(axis=0) > 0]
    smaller = table.sum(axis=1).min() / max(table.sum(), 1.0)
    rare = table.sum(axis=0) * smaller < _MIN_EXPECTED
    if not rare.any():
        return table
    return np.concatenate([table[:, ~rare], table[:, rare].sum(axis=1, keepdims=True)], axis=1)


def _kernel(rows_ND: Floats, others_MD: Floats, width: float) -> Floats:
    distances = cdist(rows_ND, others_MD, "sqeuclidean")
    kernel: Floats = np.exp(distances / (-2.0 * width**2))
    return kernel
