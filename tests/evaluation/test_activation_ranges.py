import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tasks.contracts.errors import ModelError
from tasks.evaluation.activation_ranges import entropy_range, measure_ranges, percentile_range

NETWORK = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[batch, 2] input) => (float[batch, 2] output) { hidden = Relu (input) output = MatMul (hidden, w) }
"""


@pytest.fixture
def network() -> onnx.ModelProto:
    model = onnx.parser.parse_model(NETWORK)
    model.graph.initializer.append(numpy_helper.from_array(np.array([[1, -2], [3, 0]], np.float32), "w"))
    return model


def test_measure_ranges_equals_the_case_by_hand(network):
    x = np.array([[1, -4], [-1, 2], [0.5, 0.5]], np.float32)  # hidden: [1, 0], [0, 2], [.5, .5]
    assert measure_ranges(network, x) == {"input": (-4.0, 2.0), "hidden": (0.0, 2.0), "output": (-2.0, 6.0)}


def test_measure_ranges_is_the_same_when_rows_fill_several_batches(network):
    x = np.random.default_rng(0).normal(size=(75, 2)).astype(np.float32)
    hidden = np.maximum(x, 0)
    ranges = measure_ranges(network, x)
    assert ranges["input"] == (x.min(), x.max())
    assert ranges["hidden"] == (0.0, hidden.max())


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_measure_ranges_clips_an_outlier_unless_the_method_is_minmax(network, method):
    x = np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32)
    x[500, 0] = 100.0
    assert measure_ranges(network, x)["hidden"][1] == 100.0
    low, high = measure_ranges(network, x, method, percentile=99.0)["hidden"]
    assert low == 0.0
    assert 2.0 < high < 20.0


def test_measure_ranges_names_the_tensor_when_values_are_not_finite(network):
    with pytest.raises(ModelError, match="'input' takes NaN or infinite values"):
        measure_ranges(network, np.array([[np.inf, 0.0]], np.float32))


def test_percentile_range_equals_the_case_by_hand():
    histogram = np.full(10, 10)  # ten bins of width 1 over [0, 10]
    assert percentile_range(histogram, (0.0, 10.0), 80.0) == (1.0, 9.0)
    assert percentile_range(histogram, (0.0, 10.0), 100.0) == (0.0, 10.0)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentile_range_is_within_a_bin_of_numpys_quantiles(percentile):
    values = np.random.default_rng(1).normal(size=20_000)
    extremes = (values.min(), values.max())
    histogram = np.histogram(values, 2048, extremes)[0]
    expected = np.quantile(values, [(100 - percentile) / 200, (100 + percentile) / 200])
    width = (extremes[1] - extremes[0]) / 2048
    np.testing.assert_allclose(percentile_range(histogram, extremes, percentile), expected, atol=2 * width)


def slow_divergence(histogram: list[int], num_bins: int, num_levels: int) -> float:
    """Compute KL(P || Q) bin by bin, as in the GTC 2017 talk."""
    p = [float(count) for count in histogram[:num_bins]]
    p[-1] += sum(histogram[num_bins:])
    q = [0.0] * num_bins
    for level in range(num_levels):
        bins = range(level * num_bins // num_levels, (level + 1) * num_bins // num_levels)
        filled = [i for i in bins if p[i] > 0]
        for i in filled:
            q[i] = sum(histogram[j] for j in bins) / len(filled)
    if sum(q) == 0:
        return float("inf")
    pairs = [(a / sum(p), b / sum(q)) for a, b in zip(p, q, strict=True) if a > 0]
    return sum(a * np.log(a / max(b, 1e-4 / sum(q))) for a, b in pairs)


@pytest.mark.parametrize(("extremes", "num_levels"), [((0.0, 8.0), 256), ((-8.0, 6.0), 128)])
def test_entropy_range_equals_a_slow_search(extremes, num_levels):
    values = np.abs(np.random.default_rng(2).laplace(size=5000))
    histogram = np.histogram(values[values <= 8], 512, (0.0, 8.0))[0]
    candidates = list(range(num_levels, 513, num_levels // 16))
    divergences = [slow_divergence(histogram.tolist(), n, num_levels) for n in candidates]
    threshold = 8.0 * candidates[int(np.argmin(divergences))] / 512
    assert entropy_range(histogram, extremes) == (max(extremes[0], -threshold), min(extremes[1], threshold))


def test_entropy_range_keeps_the_extremes_when_there_are_no_values():
    assert entropy_range(np.zeros(512, np.int64), (0.0, 0.0)) == (0.0, 0.0)
