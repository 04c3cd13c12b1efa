"""A small but real plan, run by the real command in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]

SMALL_PLAN: dict[str, Any] = {
    "name": "small",
    "dataset": {
        "source": "digits",
        "split": {"train": 0.4, "calibration": 0.1, "validation": 0.1, "test": 0.4},
    },
    "baseline": {
        "train": {
            "model": {"factory": "tasks.models.mlp:mlp", "kwargs": {"hidden": [256, 128]}},
            "schedule": {"epochs": 30, "learning_rate": 0.002, "checkpoint_every": 3},
        }
    },
    "candidates": {
        "student": [
            {
                "kind": "distill_response",
                "student": {"factory": "tasks.models.mlp:mlp", "kwargs": {"hidden": [48]}},
                "schedule": {"epochs": 40, "learning_rate": 0.003, "checkpoint_every": 3},
            },
            # 48 features are too few for int8 to be faster; here it buys size
            {"kind": "quantize_static", "allow_slower": True},
        ]
    },
    "constraints": {"max_accuracy_drop": 0.05},
    "rollout": {
        "steps": [0, 50],
        "min_rows_per_arm": 200,
        "accuracy_margin": 0.06,
        "max_latency_ratio": 5.0,
        "tick_seconds": 2,
        "replay": {"split": "validation", "concurrency": 2, "requests_per_second": 300},
    },
}


@dataclass(frozen=True)
class Stillhouse:
    """The command with a home of its own, on a copy of what it needs of the checkout."""

    project: Path
    home: Path

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        environment |= {
            "STILLHOUSE_HOME": str(self.home),
            "STILLHOUSE_PROJECT": str(self.project),
            "STILLHOUSE_BASELINES": str(self.project / "baselines"),
            "HOME": str(self.project),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            env=environment,
            cwd=self.project,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=900)  # a loaded machine is no failure
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == code, output
        return output

    def run(self, plan: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
        record = self.project / "record.json"
        self.call("run", str(plan), "--json", str(record), *arguments, code=code)
        return json.loads(record.read_text())

    def run_killed_after(self, seconds: float, plan: Path) -> None:
        process = self.start("run", str(plan))
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


@pytest.fixture
def stillhouse(tmp_path: Path) -> Stillhouse:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("data.dvc", ".dvc", ".dvcignore"):
        source = CHECKOUT / name
        if source.is_dir():
            (project / name).mkdir()
            (project / name / "config").write_bytes((source / "config").read_bytes())
        else:
            (project / name).write_bytes(source.read_bytes())
    return Stillhouse(project, tmp_path / "home")


@pytest.fixture
def small_plan(stillhouse: Stillhouse) -> Path:
    path = stillhouse.project / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL_PLAN))
    return path
