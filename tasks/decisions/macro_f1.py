"""Non-inferiority of macro F1 on the same rows, by the paired Bayesian bootstrap.

Dimension legend: N rows, K classes, R draws, C cells: combinations of label, candidate's answer and baseline's answer
that occur, 4 tallies of every class: hits and claims of the baseline, hits and claims of the candidate. A claim is a
label or an answer, so that F1 = 2 hits / claims.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.decisions.bootstrap import Doubled, unseen_weight
from tasks.decisions.paired_loss import MIN_ROWS, LossIncrease, judge_draws, too_few

_CHUNK_CELLS = 4_000_000


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
    once_more = Doubled.of(_drop(seen_4K[:, None, :] + tallies_4CK), _weight_of_classes(labels_N))
    generator = np.random.default_rng(seed)
    at_once = max(1, _CHUNK_CELLS // len(counts_C))
    high, low = [], []
    for start in range(0, num_resamples, at_once):
        num_draws = min(at_once, num_resamples - start)
        drawn_4RK = generator.standard_gamma(counts_C, (num_draws, len(counts_C))) @ tallies_4CK
        added_R1 = once_more.weight * generator.standard_exponential((num_draws, 1))
        for cell, parts in ((once_more.highest, high), (once_more.lowest, low)):
            parts.append(_drop(drawn_4RK + added_R1 * tallies_4CK[:, cell : cell + 1]))
    estimate = float(_drop(seen_4K[:, None, :])[0])
    return judge_draws(np.concatenate(high), np.concatenate(low), estimate, margin, alpha, num, power)


def _weight_of_classes(labels_N: NDArray[np.int64]) -> float:
    """Return how often the worst row counts once more.

    What a row can cost is known here, whether one like it was seen or not: a lost row of a class with n rows costs
    some 1 / n of that class's F1.
    """
    rows_K = np.unique(labels_N, return_counts=True)[1]
    return unseen_weight(1.0 / rows_K, rows_K)


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
