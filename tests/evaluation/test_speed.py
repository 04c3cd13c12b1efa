from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tasks.contracts.errors import DataError
from tasks.evaluation.latency import TimingBudget
from tasks.evaluation.speed import measure_speedup

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(20, 64)).astype(np.float32)


def products(num_products: int) -> bytes:
    """Return a model that multiplies a row by a 64x64 matrix so many times."""
    names = ["input", *(f"h{index}" for index in range(num_products - 1)), "output"]
    lines = "\n".join(f"{after} = MatMul ({before}, w)" for before, after in pairwise(names))
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        net (float[batch, 64] input) => (float[batch, 64] output) {{ {lines} }}"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.eye(64, dtype=np.float32), "w"))
    return model.SerializeToString()


def test_measure_speedup_tells_a_faster_model_from_a_slower_one():
    small, large = products(2), products(200)
    faster, slower = measure_speedup(large, small, X, seed=0), measure_speedup(small, large, X, seed=0)
    assert 3 < faster.lower <= faster.ratio <= faster.upper
    assert slower.lower <= slower.ratio <= slower.upper < 1 / 3
    assert faster.ratio * slower.ratio == pytest.approx(1, rel=0.5)


def test_measure_speedup_finds_a_model_as_fast_as_itself():
    model = products(50)
    speedup = measure_speedup(model, model, X, seed=0)
    assert speedup.ratio == pytest.approx(1, abs=0.1)
    assert speedup.upper - speedup.lower < 0.2


def test_measure_speedup_keeps_to_its_budget():
    budget = TimingBudget(seconds=0.0, min_repeats=20, max_repeats=20)
    assert measure_speedup(products(2), products(3), X, seed=0, budget=budget).num_samples == 20


def test_measure_speedup_says_so_when_the_budget_is_too_small_for_a_median():
    budget = TimingBudget(seconds=0.0, min_repeats=2, max_repeats=2)
    with pytest.raises(ValueError, match=r"2 samples are too few .* raise budget\.min_repeats"):
        measure_speedup(products(2), products(3), X, seed=0, budget=budget)


def test_measure_speedup_refuses_when_there_are_no_rows():
    with pytest.raises(DataError, match="empty"):
        measure_speedup(products(2), products(3), X[:0], seed=0)
