"""A benchmark that runs a whole plan, in a process of its own as `python -m benchmarks` starts it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parents[2]
MLP = "tasks.models.mlp:mlp"
PLAN = {
    "name": "waves",
    "dataset": {
        "source": "csv", "name": "waves", "path": "elsewhere.csv", "task": "regression", "target": "y",
        "split": {"train": 0.5, "calibration": 0.1, "validation": 0.1, "test": 0.3},
    },
    "baseline": {
        "train": {"model": {"factory": MLP, "kwargs": {"hidden": [64]}}, "schedule": {"epochs": 10}},
    },
    "candidates": {
        "student": [
            {
                "kind": "distill_response",
                "student": {"factory": MLP, "kwargs": {"hidden": [8]}},
                "schedule": {"epochs": 10, "learning_rate": 0.01},
            }
        ],
        # it has no layer but the first and the last, so that this chain ends before the gate
        "nothing-left": [{"kind": "quantize_static", "first_last_float": True}],
    },
    "constraints": {"max_rmse_increase": 0.5},
}  # fmt: skip
MEASURE = """
import sys
from pathlib import Path
from tasks.runtime.embedded import use_embedded_engines
use_embedded_engines()
from benchmarks.plan_runs import measure_plan
print(measure_plan(sys.argv[1], Path(sys.argv[2]), "Does it run?", (3, 4)).model_dump_json())
"""


def test_measure_plan_runs_each_seed_against_one_baseline_and_judges_on_test(tmp_path: Path) -> None:
    from benchmarks.result import Findings

    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 3))
    rows = np.column_stack([x, np.sin(x[:, 0]) + x[:, 1] * x[:, 2]])
    (tmp_path / "waves.csv").write_text("\n".join(["a,b,c,y", *(",".join(f"{v:.5f}" for v in row) for row in rows)]))
    plan = tmp_path / "waves.yaml"
    plan.write_text(yaml.safe_dump(PLAN))

    environment = os.environ | {"STILLHOUSE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(CHECKOUT)}
    finished = subprocess.run(
        [sys.executable, "-c", MEASURE, str(plan), str(tmp_path / "waves.csv")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )

    assert finished.returncode == 0, finished.stderr[-3000:]
    findings = Findings.model_validate_json(finished.stdout.splitlines()[-1])
    figures = {f"{one.subject}: {one.name}": one for one in findings.figures}
    assert findings.seeds == {"data and baseline": 0, "candidates, run 1": 3, "candidates, run 2": 4}
    assert "test split (240 rows)" in findings.setup
    assert figures[": the first run, from its start to its verdict"].median > 0
    assert figures["baseline: RMSE"].num_repeats == 1
    assert figures["student: RMSE"].num_repeats == 2
    assert figures["student: RMSE"].min < figures["student: RMSE"].max  # another seed, another student
    assert figures["student: size, baseline / it"].min == figures["student: size, baseline / it"].max > 1
    assert figures["nothing-left: runs ended before the gate"].median == 2
    assert "nothing-left: RMSE" not in figures
