"""How far a classifier's confidence is from its accuracy. Dimension legend: N rows, K classes, M bins."""

import numpy as np

from tasks.evaluation.probabilities import softmax

NUM_BINS = 15
"""The number of bins of Guo et al. 2017; figures of different numbers are not comparable."""


def expected_calibration_error(outputs_NK: np.ndarray, y_N: np.ndarray, *, num_bins: int = NUM_BINS) -> float:
    """Return ECE = sum_m |B_m| / N · |accuracy(B_m) - confidence(B_m)|, from 0 to 1.

    B_m holds the rows whose confidence, the largest softmax probability, lies in ((m-1)/M, m/M];
    empty bins count nothing. Naeini, Cooper, Hauskrecht 2015; Guo, Pleiss, Sun, Weinberger 2017, eq. 3.

    Args:
        outputs_NK: Logits.
        y_N: Class indices.
        num_bins: M, equal-width bins over [0, 1].
    """
    probabilities_NK = softmax(outputs_NK.astype(np.float64))
    confidence_N = probabilities_NK.max(axis=1)
    right_N = probabilities_NK.argmax(axis=1) == y_N
    bin_N = np.clip(np.ceil(confidence_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gap_M = np.bincount(bin_N, weights=right_N - confidence_N, minlength=num_bins)
    return float(np.abs(gap_M).sum() / len(y_N))
