"""The plan `plans/fashion-mnist.yaml` as a benchmark, on test rows that no design was judged by."""

import os
from pathlib import Path

from benchmarks.fresh_rows import exchange_test_rows
from benchmarks.plan_runs import ROOT, data_path, measure_plan
from benchmarks.result import Findings
from flows.plan import load_plan
from tasks.contracts.errors import DataError
from tasks.datasets.npz import Npz

_PLAN = "plans/fashion-mnist.yaml"
_SEEDS = (0, 1, 2)
_NUM_TEST_ROWS = 10_000


def measure() -> Findings:
    """Run the plan for three seeds of its candidates."""
    return measure_plan(
        _PLAN,
        _fresh_rows(),
        "How small and fast does a residual network for Fashion-MNIST get, and what does it cost in accuracy?",
        _SEEDS,
        test_rows=(
            "Designs had been judged by the official test rows before, so that these are trained on here, and "
            f"{_NUM_TEST_ROWS:,} rows of the official training part are the test split instead: rows that so far were "
            "only trained on, so that no figure of them was known when the design was chosen."
        ),
    )


def _fresh_rows() -> Path:
    plan = load_plan(ROOT / _PLAN, (f"dataset.path={data_path('fashion-mnist/fashion_mnist.npz')}",))
    if not isinstance(plan.dataset, Npz):
        raise DataError(f"{_PLAN} reads {plan.dataset.source}, but this benchmark exchanges the rows of an npz file")
    path = Path(os.environ["STILLHOUSE_HOME"]) / "fresh-rows" / "fashion_mnist.npz"
    exchange_test_rows(plan.dataset, plan.seed, _NUM_TEST_ROWS, path)
    return path
