"""Non-inferiority of macro F1 on the same rows, by the paired Bayesian bootstrap.

A rare class may hide a loss of which the rows show nothing. So each bound counts one row more than there are, the
worst of those seen as in `tasks.decisions.bootstrap`, or half a row of the worst kind there can be, whichever is worse.

Dimension legend: N rows, K classes, R draws, C cells: combinations of label, candidate's answer and baseline's answer
that occur, 4 tallies of every class: hits and claims of the baseline, hits and claims of the candidate. A claim is a
label or an answer, so that F1 = 2 hits / claims.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.decisions.paired_loss import MIN_ROWS, LossIncrease, judge_draws, too_few

_CHUNK_CELLS = 4_000_000
_UNSEEN = 0.5
"""Rows of the worst kind there can be that each bound counts beyond those seen. Half a row makes it exact to the second
order (Hall 1992, section 3.4, and the skewness of exponential weights), whatever skewness such rows bring."""


def judge_macro_f1_drop(
    labels_N: NDArray[np.int64],
    candidate_N: NDArray[np.int64],
    baseline_N: NDArray[np.int64],
    num_classes: int,
    margin: float,
    alpha: float,
    *,
    power: float = 0.8,
    num_resamples: int = 2000,
    seed: int = 0,
) -> LossIncrease:
    """Test whether the candidate's macro F1 lies at most `margin` below the baseline's.

    Rows with the same label and the same two answers are alike, so the sum of their exponential weights is one gamma
    draw for each such cell, which costs C instead of N.

    Args:
        labels_N: class indices.
        candidate_N: the candidate's answers; K where it has none.
        baseline_N: the baseline's, in the same order.
        num_classes: K.
        margin: tolerated drop, as a fraction.
        alpha: one-sided error rate of each bound.
        power: probability with which `num_rows_needed` rows would settle it.
        num_resamples: R.
        seed: of the draws.
    """
    num = len(labels_N)
    if num < MIN_ROWS:
        return too_few(num)
    cells_C3, counts_C = np.unique(np.stack([labels_N, candidate_N, baseline_N], axis=1), axis=0, return_counts=True)
    tallies_4CK = _tallies(cells_C3, num_classes)
    seen_4K = counts_C @ tallies_4CK
    values_C, labels = _drop(seen_4K[:, None, :] + tallies_4CK), np.unique(labels_N)
    worst_24K = np.stack([tallies_4CK[:, values_C.argmax()], _UNSEEN * _worst_row(seen_4K, labels)])
    best_24K = np.stack([tallies_4CK[:, values_C.argmin()], _UNSEEN * _swapped(_worst_row(_swapped(seen_4K), labels))])
    generator = np.random.default_rng(seed)
    at_once = max(1, _CHUNK_CELLS // len(counts_C))
    high: list[NDArray[np.float64]] = []
    low: list[NDArray[np.float64]] = []
    for start in range(0, num_resamples, at_once):
        num_draws = min(at_once, num_resamples - start)
        drawn_4RK = generator.standard_gamma(counts_C, (num_draws, len(counts_C))) @ tallies_4CK
        added_R1 = generator.standard_exponential((num_draws, 1))
        first, second = (_drop(drawn_4RK + added_R1 * row_4K[:, None, :]) for row_4K in worst_24K)
        high.append(np.maximum(first, second))
        first, second = (_drop(drawn_4RK + added_R1 * row_4K[:, None, :]) for row_4K in best_24K)
        low.append(np.minimum(first, second))
    estimate = float(_drop(seen_4K[:, None, :])[0])
    return judge_draws(np.concatenate(high), np.concatenate(low), estimate, margin, alpha, num, power)


def _worst_row(seen_4K: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return [4, K]: what the row adds that would raise the drop most, whether one like it was seen or not.

    The baseline is right on it, and the candidate claims another class: first the label is chosen as if it claimed
    none, then the claim.

    Args:
        seen_4K: tallies of the rows.
        labels: the classes that occur.
    """
    num_classes = seen_4K.shape[1]
    none = np.full_like(labels, num_classes)
    silent_4RK = _tallies(np.stack([labels, none, labels], axis=1), num_classes)
    label = labels[_drop(seen_4K[:, None, :] + silent_4RK).argmax()]
    # a class that nobody has named yet would count from its first claim on, however little that weighs
    named = np.append(np.flatnonzero(seen_4K[3] > 0.0), num_classes)
    claims = named[named != label]
    lost_4RK = _tallies(np.stack([np.full_like(claims, label), claims, np.full_like(claims, label)], 1), num_classes)
    worst: NDArray[np.float64] = lost_4RK[:, _drop(seen_4K[:, None, :] + lost_4RK).argmax()]
    return worst


def _swapped(tallies_4K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the tallies with the two models in each other's place."""
    return tallies_4K[[2, 3, 0, 1]]


def _tallies(cells_C3: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return [4, C, K]: what one row of each cell adds to every class."""
    one_hot = np.eye(num_classes + 1, num_classes, dtype=np.float64)  # the last row, no answer, belongs to no class
    is_label, ours, theirs = (one_hot[column] for column in cells_C3.T)
    return np.stack([is_label * theirs, is_label + theirs, is_label * ours, is_label + ours])


def _drop(tallies_4RK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [R]: the baseline's macro F1 minus the candidate's."""
    their_hits, their_claims, hits, claims = tallies_4RK
    return _macro_f1(their_hits, their_claims) - _macro_f1(hits, claims)


def _macro_f1(hits_RK: NDArray[np.float64], claims_RK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [R]; a class that is neither among the labels nor among the answers is left out of it."""
    seen_RK = claims_RK > 0.0
    f1_RK = np.divide(2.0 * hits_RK, claims_RK, out=np.zeros_like(hits_RK), where=seen_RK)
    scores_R: NDArray[np.float64] = f1_RK.sum(axis=1) / seen_RK.sum(axis=1)
    return scores_R
