"""The main job on texts, whose models take integers, and on a regression: as a user would run them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml

from tasks.datasets.tokenization import encode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SPLIT = {"train": 0.4, "calibration": 0.1, "validation": 0.1, "test": 0.4}
ROLLOUT = {
    "steps": [0, 50],
    "min_rows_per_arm": 200,
    "accuracy_margin": 0.06,
    "max_latency_ratio": 10.0,
    "tick_seconds": 2,
    "replay": {"split": "validation", "concurrency": 2, "requests_per_second": 300},
}
ENCODER = "tasks.models.text_encoder:text_encoder"
TEXT_PLAN: dict[str, Any] = {
    "name": "orders",
    "dataset": {
        "source": "text",
        "name": "orders",
        "path": "orders.jsonl",
        "unlabelled": "more.txt",
        "split": SPLIT,
        "expect": {"min_rows": 900},
        "tokenizer": {"vocab_size": 200, "max_length": 12},
    },
    "baseline": {
        "train": {
            "model": {"factory": ENCODER, "kwargs": {"width": 32, "depth": 1}},
            "schedule": {"epochs": 8, "learning_rate": 0.005},
        }
    },
    "candidates": {
        "student": [
            {
                "kind": "distill_response",
                "student": {"factory": ENCODER, "kwargs": {"width": 8, "depth": 0}},
                "schedule": {"epochs": 20, "learning_rate": 0.02},
            }
        ]
    },
    "constraints": {"max_accuracy_drop": 0.05},
    "rollout": ROLLOUT,
}
TABLE_PLAN: dict[str, Any] = {
    "name": "prices",
    "dataset": {
        "source": "csv", "name": "prices", "path": "prices.csv", "task": "regression", "target": "price",
        "split": SPLIT,
    },
    "baseline": {
        "train": {
            "model": {"factory": "tasks.models.mlp:mlp", "kwargs": {"hidden": [64, 64], "output_scale": 3.0}},
            "schedule": {"epochs": 30, "learning_rate": 0.005},
        }
    },
    "candidates": {
        "student": [
            {
                "kind": "distill_response",
                "student": {"factory": "tasks.models.mlp:mlp", "kwargs": {"hidden": [16], "output_scale": 3.0}},
                "schedule": {"epochs": 60, "learning_rate": 0.01},
            }
        ]
    },
    "constraints": {"max_rmse_increase": 0.5},
    "rollout": ROLLOUT | {"correct_within": 1.5},
}  # fmt: skip


def write_orders(folder: Path) -> None:
    rng = np.random.default_rng(0)
    verbs = {
        "lights": ["turn on", "switch off", "dim"],
        "music": ["play", "queue", "stop"],
        "time": ["what is", "tell"],
    }
    things = {"lights": ["the lamp", "my lights"], "music": ["a song", "some jazz"], "time": ["the time", "the hour"]}
    fillers = ["please", "now", "again", "for me", "in the kitchen", "quickly", "would you", "if you can", "my dear"]
    texts: dict[str, str] = {}
    while len(texts) < 900:
        label = str(rng.choice(list(verbs)))
        words = [rng.choice(verbs[label]), rng.choice(things[label]), *rng.choice(fillers, 3), str(rng.integers(50))]
        texts.setdefault(" ".join(words), label)
    lines = [json.dumps({"text": text, "label": label}) for text, label in texts.items()]
    (folder / "orders.jsonl").write_text("\n".join(lines))
    (folder / "more.txt").write_text("dim the lamp\nplay some jazz\n")


def write_prices(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 3))
    price = 3 * np.sin(x[:, 0]) + x[:, 1] * x[:, 2] + rng.normal(0, 0.3, len(x)) + 5
    lines = [",".join(f"{value:.5f}" for value in (*row, target)) for row, target in zip(x, price, strict=True)]
    (folder / "prices.csv").write_text("\n".join(["a,b,c,price", *lines]))


def pulled(stillhouse: Any, record: dict[str, Any], data: str) -> tuple[onnxruntime.InferenceSession, Path, float]:
    """Get the chosen model and the test split by the command line, and the metric that the record claims."""
    chosen = next(one for one in record["candidates"] if one["name"] == record["chosen"])["stages"][-1]
    model, rows = stillhouse.project / "chosen.onnx", stillhouse.project / "test.npz"
    stillhouse.call("model", "pull", chosen["model"]["digest"], "--out", str(model))
    stillhouse.call("data", "export", data, "--split", "test", "--out", str(rows))
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    metrics = chosen["evaluation"]["metrics"]
    return session, rows, metrics.get("accuracy", metrics.get("rmse"))


def test_run_promotes_a_text_model_that_any_client_can_encode_for(stillhouse: Any) -> None:
    write_orders(stillhouse.project)
    plan = stillhouse.project / "orders.yaml"
    plan.write_text(yaml.safe_dump(TEXT_PLAN))

    record = stillhouse.run(plan)

    assert record["rollout"]["verdict"] == "promote"
    session, rows, claimed = pulled(stillhouse, record, "orders")
    with np.load(rows) as arrays:
        x, y = arrays["x"], arrays["y"]
    assert x.dtype == np.int64
    outputs = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert abs(float(np.mean(outputs.argmax(1) == y)) - claimed) < 1e-9
    assert claimed > 0.9
    tokenizer = rows.with_suffix(".tokenizer.json").read_bytes()
    asked = encode(["play some jazz for me", "what is the hour now"], tokenizer)
    answers = session.run(None, {session.get_inputs()[0].name: asked})[0].argmax(1)
    assert answers.tolist() == [1, 2]  # of lights, music, time
    stillhouse.call("data", "export", "orders", "--split", "unlabelled", "--out", str(stillhouse.project / "u.npz"))
    with np.load(stillhouse.project / "u.npz") as arrays:
        assert arrays["y"].tolist() == [-1, -1]


def test_run_promotes_a_regression_whose_error_anybody_can_recompute(stillhouse: Any) -> None:
    write_prices(stillhouse.project)
    plan = stillhouse.project / "prices.yaml"
    plan.write_text(yaml.safe_dump(TABLE_PLAN))

    record = stillhouse.run(plan)

    assert record["rollout"]["verdict"] == "promote"
    session, rows, claimed = pulled(stillhouse, record, "prices")
    with np.load(rows) as arrays:
        outputs = session.run(None, {session.get_inputs()[0].name: arrays["x"]})[0]
        rmse = float(np.sqrt(np.mean((outputs[:, 0].astype(np.float64) - arrays["y"]) ** 2)))
    assert abs(rmse - claimed) < 1e-5
    assert claimed < 1.0
