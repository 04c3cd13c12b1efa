"""Class probabilities from logits. Dimension legend: N rows, K classes."""

import numpy as np


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Return exp(z_k) / sum_j exp(z_j) per row, [N, K], in the type of the logits.

    The row's maximum is subtracted first, which changes nothing but keeps exp from overflowing.
    """
    exponentials_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    probabilities_NK: np.ndarray = exponentials_NK / exponentials_NK.sum(axis=1, keepdims=True)
    return probabilities_NK


def log_softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Return the logarithm of `softmax`, [N, K], finite where the probability itself underflows to 0."""
    shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
    log_probabilities_NK: np.ndarray = shifted_NK - np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True))
    return log_probabilities_NK
