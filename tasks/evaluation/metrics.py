"""Task metrics from a model's outputs, and the one comparison between two values of a metric.

Dimension legend: N rows, K classes. Classifiers give logits [N, K], regressors values [N, 1]. All
arithmetic is in float64.
"""

import numpy as np

from tasks.contracts.data import Task
from tasks.contracts.errors import DataError, UserError
from tasks.contracts.evaluation import METRIC_DIRECTIONS
from tasks.evaluation.probabilities import log_softmax, softmax


def improvement(metric: str, candidate: float, baseline: float) -> float:
    """Return how much better the candidate's value is: positive is better whatever the metric's direction.

    Raises:
        UserError: the metric has no declared direction.
    """
    direction = METRIC_DIRECTIONS.get(metric)
    if direction is None:
        raise UserError(f"metric {metric!r} is unknown; use one of {', '.join(sorted(METRIC_DIRECTIONS))}")
    return candidate - baseline if direction == "higher" else baseline - candidate


def task_metrics(task: Task, outputs: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return every metric of the task, by the names of `METRIC_DIRECTIONS`.

    Args:
        task: What the model does.
        outputs: [N, K] logits, or [N, 1] values for regression.
        y: [N] class indices, or targets for regression.

    Raises:
        DataError: there are no rows, or the two differ in number.
    """
    if task == "classification":
        return {
            "accuracy": accuracy(outputs, y),
            "macro_f1": macro_f1(outputs, y),
            "log_loss": log_loss(outputs, y),
            "brier": brier(outputs, y),
        }
    return {"rmse": rmse(outputs, y), "mae": mae(outputs, y), "r2": r2(outputs, y)}


def accuracy(outputs_NK: np.ndarray, y_N: np.ndarray) -> float:
    """Return mean(argmax == y); the first of equal outputs wins."""
    return float(np.mean(_predicted(outputs_NK, y_N) == y_N))


def macro_f1(outputs_NK: np.ndarray, y_N: np.ndarray) -> float:
    """Return the unweighted mean over classes of F1 = 2 TP / (2 TP + FP + FN).

    Classes that are neither among the labels nor among the predictions are left out, as in scikit-learn.
    """
    predicted_N = _predicted(outputs_NK, y_N)
    num_classes = outputs_NK.shape[1]
    hits_K = np.bincount(y_N[predicted_N == y_N], minlength=num_classes)
    claims_K = np.bincount(predicted_N, minlength=num_classes) + np.bincount(y_N, minlength=num_classes)
    seen_K = claims_K > 0
    return float(np.mean(2.0 * hits_K[seen_K] / claims_K[seen_K]))


def log_loss(outputs_NK: np.ndarray, y_N: np.ndarray) -> float:
    """Return the mean of -log p(label), in nats; taken from the logits, so no probability is clipped."""
    _require_rows(outputs_NK, y_N)
    return float(-np.mean(_of_label(log_softmax(outputs_NK.astype(np.float64)), y_N)))


def brier(outputs_NK: np.ndarray, y_N: np.ndarray) -> float:
    """Return the mean over rows of sum_k (p_k - [k = label])², from 0 to 2 (Brier 1950).

    Some libraries halve it for two classes; here it is the same formula for every K.
    """
    _require_rows(outputs_NK, y_N)
    p_NK = softmax(outputs_NK.astype(np.float64))
    return float(np.mean(np.sum(p_NK**2, axis=1) - 2.0 * _of_label(p_NK, y_N) + 1.0))


def rmse(outputs_N1: np.ndarray, y_N: np.ndarray) -> float:
    """Return the root of the mean squared error, in the target's unit."""
    return float(np.sqrt(np.mean(_errors(outputs_N1, y_N) ** 2)))


def mae(outputs_N1: np.ndarray, y_N: np.ndarray) -> float:
    """Return the mean absolute error, in the target's unit."""
    return float(np.mean(np.abs(_errors(outputs_N1, y_N))))


def r2(outputs_N1: np.ndarray, y_N: np.ndarray) -> float:
    """Return 1 - sum (output - y)² / sum (y - mean y)², the share of the variance that is explained.

    Where all targets are equal there is no variance: 1 for perfect outputs, else 0, as in scikit-learn.
    """
    residual = float(np.sum(_errors(outputs_N1, y_N) ** 2))
    y_float = y_N.astype(np.float64)
    total = float(np.sum((y_float - y_float.mean()) ** 2))
    if total == 0.0:
        return 1.0 if residual == 0.0 else 0.0
    return 1.0 - residual / total


def per_class_recall(outputs_NK: np.ndarray, y_N: np.ndarray, class_names: tuple[str, ...]) -> dict[str, float]:
    """Return the share of each class's rows that are predicted right; a class without rows is left out."""
    right_N = _predicted(outputs_NK, y_N) == y_N
    rows_K = np.bincount(y_N, minlength=len(class_names))
    right_K = np.bincount(y_N[right_N], minlength=len(class_names))
    return {name: float(right_K[k] / rows_K[k]) for k, name in enumerate(class_names) if rows_K[k]}


def flip_rate(outputs_NK: np.ndarray, baseline_outputs_NK: np.ndarray) -> float:
    """Return the share of rows whose predicted class differs from the baseline's, right or wrong.

    Raises:
        DataError: the two were not computed on the same rows and classes.
    """
    if outputs_NK.shape != baseline_outputs_NK.shape or not len(outputs_NK):
        raise DataError(
            f"flips need both models' outputs on the same rows; got shapes {outputs_NK.shape} and "
            f"{baseline_outputs_NK.shape}. Evaluate both on the same split of the same data set."
        )
    return float(np.mean(outputs_NK.argmax(axis=1) != baseline_outputs_NK.argmax(axis=1)))


def _predicted(outputs_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    _require_rows(outputs_NK, y_N)
    predicted_N: np.ndarray = outputs_NK.argmax(axis=1)
    return predicted_N


def _of_label(values_NK: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values_NK, y_N[:, None], axis=1)[:, 0]


def _errors(outputs_N1: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    _require_rows(outputs_N1, y_N)
    if outputs_N1.shape[1] != 1:
        raise DataError(f"regression needs outputs of shape [N, 1]; got {outputs_N1.shape}")
    errors_N: np.ndarray = outputs_N1[:, 0].astype(np.float64) - y_N.astype(np.float64)
    return errors_N


def _require_rows(outputs: np.ndarray, y: np.ndarray) -> None:
    if outputs.ndim != 2 or y.shape != outputs.shape[:1] or not len(y):
        raise DataError(f"metrics need outputs [N, K] and labels [N] with N > 0; got {outputs.shape} and {y.shape}")
