"""The range that every activation of an ONNX graph takes on given rows: what int8 scales are computed from."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from tasks.contracts.errors import ModelError
from tasks.evaluation.runtime_session import make_session, run_outputs

CalibrationMethod = Literal["minmax", "percentile", "entropy"]
Ranges = dict[str, tuple[float, float]]

NUM_BINS = 2048
_EMPTY_LEVEL = 1e-4  # a level without values counts as this many, so that the logarithm stays finite
_BATCH_SIZE = 32  # all activations of one batch are in memory at once


def measure_ranges(
    model: ModelProto, x: np.ndarray, method: CalibrationMethod = "minmax", *, percentile: float = 99.99
) -> Ranges:
    """Measure the range of every float activation, inputs and outputs included.

    Args:
        model: A float graph with one input; the names of the result are its tensors' names.
        x: Calibration rows [N, *input_shape].
        method: `minmax` takes the extremes; `percentile` the middle `percentile` percent of the values;
            `entropy` the clipping threshold that loses the least information.
        percentile: Only for the method of that name, in percent.

    Raises:
        ModelError: the model does not run on the rows, or gives NaN or infinite values.
    """
    extremes = _extremes(model, x)
    if method == "minmax":
        return extremes
    histograms = {name: np.zeros(NUM_BINS, np.int64) for name in extremes}
    for activations in _activations(model, x):
        for name, values in activations.items():
            # Zero is exact in every affine range; after a ReLU its spike would drown the rest.
            values = np.abs(values[values != 0]) if method == "entropy" else values
            histograms[name] += np.histogram(values, NUM_BINS, _histogram_span(extremes[name], method))[0]
    if method == "percentile":
        return {name: percentile_range(histograms[name], extremes[name], percentile) for name in extremes}
    return {name: entropy_range(histograms[name], extremes[name]) for name in extremes}


def percentile_range(histogram: np.ndarray, extremes: tuple[float, float], percentile: float) -> tuple[float, float]:
    """Cut (100 - percentile) / 2 percent off each end of a histogram over [min, max]."""
    low, high = extremes
    cumulative = np.concatenate([[0.0], np.cumsum(histogram) / max(histogram.sum(), 1)])
    edges = np.linspace(low, high, len(histogram) + 1)
    cut = (100.0 - percentile) / 200.0
    first = int(np.searchsorted(cumulative, cut, side="right")) - 1
    last = int(np.searchsorted(cumulative, 1.0 - cut, side="left"))
    return float(edges[max(first, 0)]), float(edges[min(last, len(histogram))])


def entropy_range(histogram: np.ndarray, extremes: tuple[float, float]) -> tuple[float, float]:
    """Choose the clipping threshold t whose quantised distribution is closest to the unclipped one.

    t minimises KL(P || Q) = sum_i P_i log(P_i / Q_i) over candidate numbers of bins, where P is the
    histogram of |x| up to t with everything beyond it added to the last bin, and Q the same bins
    without that addition, merged into as many levels as int8 has and spread again over the bins
    that are not empty in P. Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017.

    Args:
        histogram: Counts of |x|, zeros left out, over [0, max |x|].
        extremes: Smallest and largest x. Values of one sign get 256 levels, others 128 on each side.
    """
    low, high = extremes
    num_levels = 256 if low >= 0.0 or high <= 0.0 else 128
    candidates = range(num_levels, len(histogram) + 1, num_levels // 16)
    divergences = [_clipping_divergence(histogram, num_bins, num_levels) for num_bins in candidates]
    largest = max(abs(low), abs(high))
    threshold = largest * candidates[int(np.argmin(divergences))] / len(histogram)
    return max(low, -threshold), min(high, threshold)


def _clipping_divergence(histogram: np.ndarray, num_bins: int, num_levels: int) -> float:
    kept = histogram[:num_bins].astype(np.float64)
    reference = kept.copy()
    reference[-1] += histogram[num_bins:].sum()
    if not kept.sum():
        return np.inf
    starts = np.arange(num_levels) * num_bins // num_levels
    filled = reference > 0
    per_level = np.add.reduceat(kept, starts) / np.maximum(np.add.reduceat(filled.astype(np.int64), starts), 1)
    level_of_bin = np.repeat(np.arange(num_levels), np.diff(np.append(starts, num_bins)))
    p = reference[filled] / reference.sum()
    q = per_level[level_of_bin][filled] / kept.sum()
    return float(np.sum(p * np.log(p / np.maximum(q, _EMPTY_LEVEL / kept.sum()))))


def _histogram_span(extremes: tuple[float, float], method: CalibrationMethod) -> tuple[float, float]:
    low, high = extremes
    if method == "percentile":
        return low, high
    return 0.0, max(abs(low), abs(high))


def _extremes(model: ModelProto, x: np.ndarray) -> Ranges:
    extremes: Ranges = {}
    for activations in _activations(model, x):
        for name, values in activations.items():
            low, high = float(values.min()), float(values.max())
            if not np.isfinite([low, high]).all():
                raise ModelError(f"the tensor {name!r} takes NaN or infinite values on the calibration rows")
            seen = extremes.get(name, (low, high))
            extremes[name] = (min(low, seen[0]), max(high, seen[1]))
    return extremes


def _activations(model: ModelProto, x: np.ndarray) -> Iterator[Mapping[str, np.ndarray]]:
    """Run the rows through and yield, batch by batch, every float activation by name."""
    tapped = onnx.shape_inference.infer_shapes(model)
    outputs = {value.name for value in tapped.graph.output}
    inner = [value for value in tapped.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    tapped.graph.output.extend(value for value in inner if value.name not in outputs)
    session = make_session(tapped.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    for start in range(0, len(x), _BATCH_SIZE):
        batch = x[start : start + _BATCH_SIZE]
        values = {session.get_inputs()[0].name: batch, **dict(zip(names, run_outputs(session, batch), strict=True))}
        yield {name: value for name, value in values.items() if value.dtype == np.float32 and value.size}
