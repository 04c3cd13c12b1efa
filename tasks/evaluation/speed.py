"""How many times as fast one ONNX model answers as another: both timed in turn on the same rows, as they are served."""

from dataclasses import dataclass

import numpy as np

from tasks.decisions.latency import judge_latency
from tasks.evaluation.latency import TimingBudget, time_interleaved
from tasks.evaluation.runners import OnnxRunner

_BUDGET = TimingBudget(seconds=2.0, min_repeats=40, max_repeats=300)
_BLOCK_LENGTH = 10  # neighbouring samples share what else the machine does meanwhile


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """Median time of the model before over that of the model after, with one-sided confidence bounds."""

    ratio: float
    """Above 1: the model after is faster."""
    lower: float
    upper: float
    num_samples: int


def measure_speedup(
    before: bytes,
    after: bytes,
    x: np.ndarray,
    seed: int,
    *,
    confidence: float = 0.95,
    budget: TimingBudget = _BUDGET,
) -> Speedup:
    """Time two ONNX models interleaved, one row a request, on one thread, and compare their median times.

    Args:
        before: ONNX file.
        after: ONNX file that takes the same rows.
        x: rows [N, *input_shape] to draw from.
        seed: for the rows, the orders and the bootstrap.
        confidence: of each of the two bounds.
        budget: how much to time; loading the models comes on top.

    Raises:
        ModelError: onnxruntime does not load a model.
        DataError: there are no rows.
    """
    runners = {"before": OnnxRunner(before), "after": OnnxRunner(after)}
    samples = time_interleaved(runners, x, seed=seed, batch_sizes=(1,), budget=budget)
    after_ms, before_ms = samples["after"][1], samples["before"][1]
    judged = judge_latency(after_ms, before_ms, 0.5, 1.0, 1.0 - confidence, block_length=_BLOCK_LENGTH, seed=seed)
    if judged.estimate is None or judged.lower is None or judged.upper is None:
        raise ValueError(f"{judged.num_samples} samples are too few for a median; raise budget.min_repeats")
    return Speedup(
        ratio=1.0 / judged.estimate,
        lower=1.0 / judged.upper,
        upper=1.0 / judged.lower,
        num_samples=judged.num_samples,
    )
