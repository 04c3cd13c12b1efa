"""Accuracy of a window without labels, from the model's own confidences.

Confidence-based performance estimation (CBPE; Bialek et al. 2024): c(s) is the chance that an answer of confidence s
is right, learnt from labelled reference rows; the expected accuracy of a window is the mean of c over its confidences.

Assumption: c holds in the window as it did in the reference. A change of inputs alone leaves it intact (covariate
shift), a change of what is right does not (concept shift). If c is off by at most e on the window's rows, so is the
estimate: |accuracy - estimate| <= mean |c_true(s) - c(s)| <= e. The bounds here cover the sampling of the window and
of the reference, not e.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

Floats = NDArray[np.float64]

MIN_EITHER = 10
"""Fewest right and fewest wrong reference rows from which c can be learnt."""
_EDGE = 1e-6
_MAX_STEPS = 50
_CONVERGED = 1e-10


@dataclass(frozen=True)
class ExpectedAccuracy:
    """The estimate, and how far it lies from the reference's accuracy."""

    estimate: float
    """Expected accuracy of the window."""
    difference: float
    """Estimate minus the accuracy of the reference."""
    lower: float
    """One-sided bound of `difference`."""
    upper: float


@dataclass(frozen=True)
class Calibration:
    """c(s) = sigmoid(a ln s - b ln(1 - s) + offset), beta calibration (Kull, Silva Filho & Flach 2017)."""

    parameters: Floats
    """[3] a, b, offset."""

    def __call__(self, confidence_N: Floats) -> Floats:
        """Return the chance of being right at every confidence."""
        return expit(_design(confidence_N) @ self.parameters)  # type: ignore[no-any-return]


def calibrate(confidence_M: Floats, right_M: NDArray[np.bool_]) -> Calibration:
    """Learn c from labelled rows by maximum likelihood; Platt's smoothed targets (1999) keep it finite for any rows.

    Three parameters rather than isotonic steps: with the hundreds of rows of a validation split, steps follow single
    rows at the ends, which biases the estimate exactly where confidences have dropped.

    Args:
        confidence_M: largest softmax probabilities.
        right_M: whether those answers were right.
    """
    design = _design(confidence_M)
    targets = _targets(right_M)
    parameters = np.array([1.0, 1.0, 0.0])
    for _ in range(_MAX_STEPS):
        chances = expit(design @ parameters)
        step = np.linalg.solve(_information(design, chances), design.T @ (targets - chances))
        parameters = parameters + np.clip(step, -2.0, 2.0)
        if float(np.abs(step).max()) < _CONVERGED:
            break
    return Calibration(parameters)


def expected_accuracy(
    window_N: Floats, confidence_M: Floats, right_M: NDArray[np.bool_], alpha: float
) -> ExpectedAccuracy:
    """Estimate the accuracy of a window, and bound how far it lies from the reference's.

    The difference d = mean_N c(s) - mean_M c(s) has the variance var_N(c) / N + var_M(psi) / M by the delta method,
    psi = g^T H^-1 x (target - c) - (target - mean target), x = (ln s, -ln(1 - s), 1), H the mean information matrix and
    g the mean over the window of c (1 - c) x: what a reference row changes through c, and through the accuracy itself.

    Args:
        window_N: confidences of the window.
        confidence_M: confidences of the labelled reference.
        right_M: whether the reference's answers were right; at least `MIN_EITHER` of each kind.
        alpha: one-sided error rate of each bound.
    """
    calibration = calibrate(confidence_M, right_M)
    at_window, at_reference = calibration(window_N), calibration(confidence_M)
    design, targets = _design(confidence_M), _targets(right_M)
    gradient = (_design(window_N) * (at_window * (1.0 - at_window))[:, None]).mean(axis=0)
    pull = np.linalg.solve(_information(design, at_reference) / len(targets), gradient)
    influence = (design @ pull) * (targets - at_reference) - (targets - targets.mean())
    error = math.sqrt(float(at_window.var()) / len(window_N) + float(influence.var()) / len(targets))
    difference = float(at_window.mean() - targets.mean())
    reach = float(ndtri(1.0 - alpha)) * error
    return ExpectedAccuracy(float(at_window.mean()), difference, difference - reach, difference + reach)


def _design(confidence: Floats) -> Floats:
    inner = np.clip(confidence, _EDGE, 1.0 - _EDGE)
    return np.stack([np.log(inner), -np.log1p(-inner), np.ones(len(inner))], axis=1)


def _targets(right_M: NDArray[np.bool_]) -> Floats:
    num_right = int(right_M.sum())
    high, low = (num_right + 1.0) / (num_right + 2.0), 1.0 / (len(right_M) - num_right + 2.0)
    return np.where(right_M, high, low)


def _information(design: Floats, chances: Floats) -> Floats:
    """Return the Fisher information [3, 3]; a trace of ridge for rows that all have one confidence."""
    information: Floats = design.T @ (design * (chances * (1.0 - chances))[:, None]) + 1e-9 * np.eye(design.shape[1])
    return information
