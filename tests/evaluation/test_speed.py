from dataclasses import dataclass
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


class Machine:
    """A machine whose clock only models move, and that is three times as slow from its 300th answer on."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.num_answers = 0

    def perf_counter(self) -> float:
        return self.now_ns / 1e9

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def load(self, model: bytes) -> "Machine.Model":
        return self.Model(self, int(model))

    @dataclass
    class Model:
        machine: "Machine"
        cost_ns: int

        def run(self, rows: np.ndarray) -> np.ndarray:
            self.machine.num_answers += 1
            self.machine.now_ns += self.cost_ns * (3 if self.machine.num_answers >= 300 else 1)
            return rows


@pytest.mark.parametrize(("before", "after", "ratio"), [(b"5000", b"5000", 1.0), (b"5000", b"2000", 2.5)])
def test_measure_speedup_is_not_misled_by_a_machine_that_becomes_slower_on_the_way(monkeypatch, before, after, ratio):
    machine = Machine()
    monkeypatch.setattr("tasks.evaluation.latency.time", machine)
    monkeypatch.setattr("tasks.evaluation.speed.OnnxRunner", machine.load)
    budget = TimingBudget(seconds=0.0, min_repeats=140, max_repeats=140)  # 580 answers, 20 of them warm-ups
    speedup = measure_speedup(before, after, X, seed=0, budget=budget)
    assert machine.num_answers > 500
    assert (speedup.lower, speedup.ratio, speedup.upper) == pytest.approx((ratio, ratio, ratio))


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
