"""Non-inferiority of macro F1 on the same rows, by the paired bootstrap.

Dimension legend: N rows, K classes, R resamples, C cells: combinations of label, candidate's answer and baseline's
answer that occur.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.decisions.bootstrap import acceleration
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

    Rows with the same label and the same two answers are alike, so a resample of the rows is a multinomial draw of
    how many there are of each such cell, which costs C instead of N.

    Args:
        labels_N: class indices.
        candidate_N: the candidate's answers; K where it has none.
        baseline_N: the baseline's, in the same order.
        num_classes: K.
        margin: tolerated drop, as a fraction.
        alpha: one-sided error rate of each bound.
        power: probability with which `num_rows_needed` rows would settle it.
        num_resamples: R.
        seed: of the resampling.
    """
    num = len(labels_N)
    if num < MIN_ROWS:
        return too_few(num)
    cells_C3, counts_C = np.unique(np.stack([labels_N, candidate_N, baseline_N], axis=1), axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    at_once = max(1, _CHUNK_CELLS // len(counts_C))
    parts = []
    for start in range(0, num_resamples, at_once):
        drawn_RC = generator.multinomial(num, counts_C / num, size=min(at_once, num_resamples - start))
        parts.append(_drop(cells_C3, drawn_RC, num_classes))
    estimate = float(_drop(cells_C3, counts_C[None, :], num_classes)[0])
    accelerated = acceleration(_left_out(cells_C3, counts_C, num_classes), counts_C)
    return judge_draws(np.concatenate(parts), estimate, accelerated, margin, alpha, num, power)


def _left_out(cells_C3: NDArray[np.int64], counts_C: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return [C]: the drop without one row of each cell in turn."""
    num_cells = len(counts_C)
    at_once = max(1, _CHUNK_CELLS // num_cells)
    parts = []
    for start in range(0, num_cells, at_once):
        cells = np.arange(start, min(start + at_once, num_cells))
        counts_RC = np.tile(counts_C, (len(cells), 1))
        counts_RC[np.arange(len(cells)), cells] -= 1
        parts.append(_drop(cells_C3, counts_RC, num_classes))
    return np.concatenate(parts)


def _drop(cells_C3: NDArray[np.int64], counts_RC: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    labels_C, candidate_C, baseline_C = cells_C3.T
    return _macro_f1(labels_C, baseline_C, counts_RC, num_classes) - _macro_f1(
        labels_C, candidate_C, counts_RC, num_classes
    )


def _macro_f1(
    labels_C: NDArray[np.int64], answers_C: NDArray[np.int64], counts_RC: NDArray[np.int64], num_classes: int
) -> NDArray[np.float64]:
    """Return [R]; a class that is neither among the labels nor among the answers of a resample is left out of it."""
    one_hot = np.eye(num_classes + 1, num_classes, dtype=np.float64)  # the last row, no answer, belongs to no class
    is_label_CK, is_answer_CK = one_hot[labels_C], one_hot[answers_C]
    counts = counts_RC.astype(np.float64)
    hits_RK = counts @ (is_label_CK * is_answer_CK)
    claims_RK = counts @ (is_label_CK + is_answer_CK)
    seen_RK = claims_RK > 0
    f1_RK = np.divide(2.0 * hits_RK, claims_RK, out=np.zeros_like(hits_RK), where=seen_RK)
    scores_R: NDArray[np.float64] = f1_RK.sum(axis=1) / seen_RK.sum(axis=1)
    return scores_R
