"""Retraining by the real command: from sampled inputs in the log to a champion whose ledger says why."""

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.gateway.records import FeedbackRecord, feedback_table
from infra.gateway.sampling import InputRecord, input_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def write_traffic(traffic: Path, num_rows: int) -> None:
    """Write paled digits as a gateway logs sampled inputs and their labels."""
    from sklearn.datasets import load_digits

    shipped = load_digits()
    x = (0.2 + 0.6 * shipped.images[:num_rows, None] / 16).astype(np.float32)
    ids = [uuid.uuid4().hex for _ in x]
    inputs = [InputRecord("small", name, 1, row[None]) for name, row in zip(ids, x, strict=True)]
    labels = [
        FeedbackRecord("small", name, 2, [float(label)]) for name, label in zip(ids, shipped.target, strict=False)
    ]
    for log, table in (("inputs", input_table(inputs)), ("feedback", feedback_table(labels))):
        path = traffic / "small" / log / "2026-01-01-00" / "test-1.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)


def test_retrain_publishes_trains_on_and_promotes_once_and_is_then_refused(stillhouse: Any, small_plan: Path) -> None:
    first = stillhouse.run(small_plan)
    assert first["rollout"]["verdict"] == "promote"
    nothing = stillhouse.call("retrain", "small", "--plan", str(small_plan), "--reason", "too early", code=2)
    assert "0 of 0 labelled rows are new" in " ".join(nothing.split()), "and it does not count as a retraining"

    write_traffic(stillhouse.home / "traffic", 600)
    record = stillhouse.project / "retrained.json"
    arguments = ("retrain", "small", "--plan", str(small_plan), "--reason", "paler scans", "--json", str(record))
    stillhouse.call(*arguments)

    again = json.loads(record.read_text())
    assert again["rollout"]["verdict"] == "promote"
    new_test_rows = again["dataset"]["splits"]["test"] - first["dataset"]["splits"]["test"]
    assert new_test_rows == pytest.approx(240, abs=5)
    (candidate,) = again["candidates"]
    champion = next(check for check in candidate["gate"]["checks"] if check["name"] == "champion")
    assert champion["verdict"] == "PASS"
    history = stillhouse.call("model", "history", "small")
    assert "retrained: paler scans" in " ".join(history.split())
    refused = stillhouse.call(*arguments, code=2)
    assert "cooldown_hours" in refused
