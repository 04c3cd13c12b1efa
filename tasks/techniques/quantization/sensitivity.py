"""What int8 does to a model's answers: as noise in its outputs, and as a drop of its metric."""

import numpy as np

from tasks.contracts.data import Task


def output_noise(reference: np.ndarray, outputs: np.ndarray) -> float:
    """Return the power of the difference over the power of the reference, both [N, K]; 0 for equal outputs.

    -10 log10 of it is the signal-to-noise ratio in dB. The noise of several layers adds up roughly, which makes it a
    better measure of one layer's harm than a count of changed answers.
    """
    reference = reference.astype(np.float64)
    noise = float(np.square(outputs - reference).sum())
    signal = float(np.square(reference - reference.mean(axis=0)).sum())
    if noise == 0.0:
        return 0.0
    return noise / signal if signal > 0.0 else float("inf")


def metric_drop(reference: np.ndarray, outputs: np.ndarray, labels: np.ndarray, task: Task) -> float:
    """Return by how much `outputs` [N, K] are worse than the reference's: accuracy lost, or relative rise of RMSE.

    Negative where they are better.
    """
    if task == "classification":
        return float(np.mean(reference.argmax(axis=1) == labels) - np.mean(outputs.argmax(axis=1) == labels))
    before, after = (float(np.sqrt(np.mean(np.square(each[:, 0] - labels)))) for each in (reference, outputs))
    if before == 0.0:
        return 0.0 if after == 0.0 else float("inf")
    return after / before - 1.0
