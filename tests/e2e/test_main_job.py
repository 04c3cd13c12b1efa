"""The main job on a small plan: promoted once, figures that others can recompute, cached, healed, never doubled."""

import json
import random
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def stages(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [stage for candidate in record["candidates"] for stage in candidate["stages"]]


def digests(record: dict[str, Any]) -> list[str]:
    return [record["baseline"]["model"]["digest"], *(stage["model"]["digest"] for stage in stages(record))]


def test_run_promotes_a_model_whose_accuracy_anybody_can_recompute(stillhouse: Any, small_plan: Path) -> None:
    record = stillhouse.run(small_plan)
    assert record["schema"] == "stillhouse.run/1"
    assert record["rollout"]["verdict"] == "promote"
    assert record["registered"]["aliases"] == ["champion"]
    chosen = next(one for one in record["candidates"] if one["name"] == record["chosen"])
    model, rows = stillhouse.project / "chosen.onnx", stillhouse.project / "test.npz"
    stillhouse.call("model", "pull", chosen["stages"][-1]["model"]["digest"], "--out", str(model))
    stillhouse.call("data", "export", "digits", "--split", "test", "--out", str(rows))
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    with np.load(rows) as arrays:
        outputs = session.run(None, {session.get_inputs()[0].name: arrays["x"]})[0]
        accuracy = float(np.mean(outputs.argmax(1) == arrays["y"]))
    assert abs(accuracy - chosen["stages"][-1]["evaluation"]["metrics"]["accuracy"]) < 1e-9

    again = stillhouse.run(small_plan)
    assert all(stage["cached"] for stage in stages(again))
    assert again["rollout"]["verdict"] == "unchanged"
    assert digests(again) == digests(record)

    warmer = stillhouse.run(small_plan, "--set", "candidates.student.0.temperature=2", "--no-rollout")
    assert [stage["cached"] for stage in stages(warmer)] == [False, False]
    assert warmer["baseline"]["model"] == again["baseline"]["model"]
    # new models mean a new table of timings, so only what does not depend on the machine is equal
    assert warmer["baseline"]["evaluation"]["metrics"] == again["baseline"]["evaluation"]["metrics"]


def test_run_finishes_without_doubling_anything_when_it_is_killed_again_and_again(
    stillhouse: Any, small_plan: Path
) -> None:
    moments = random.Random(7)
    for _ in range(4):
        stillhouse.run_killed_after(moments.uniform(15, 60), small_plan)
    record = stillhouse.run(small_plan)
    assert record["rollout"]["verdict"] in ("promote", "unchanged")
    with sqlite3.connect(stillhouse.home / "mlflow.db") as database:
        keys = [key for (key,) in database.execute("select value from tags where key = 'stillhouse.stage_key'")]
    assert len(keys) == len(set(keys)) == 3
    with sqlite3.connect(stillhouse.home / "ledger.db") as database:
        assert database.execute("select count(*) from promotions where action = 'promote'").fetchone() == (1,)


def test_run_ends_soon_and_keeps_its_checkpoint_when_it_is_told_to(stillhouse: Any, small_plan: Path) -> None:
    checkpoints = stillhouse.home / "store" / "checkpoints"
    run = stillhouse.start("run", str(small_plan), "--no-rollout", "--set", "baseline.train.schedule.epochs=2000")
    deadline = time.monotonic() + 240
    while not (checkpoints.is_dir() and any(checkpoints.iterdir())):
        assert time.monotonic() < deadline, run.poll()
        time.sleep(0.2)
    told = time.monotonic()
    run.terminate()
    output, _ = run.communicate(timeout=60)
    assert time.monotonic() - told < 20  # the training would take many minutes
    assert run.returncode not in (0, 1), output
    assert any(checkpoints.iterdir())


def test_run_repairs_a_truncated_artifact(stillhouse: Any, small_plan: Path) -> None:
    first = stillhouse.run(small_plan, "--no-rollout")
    digest = stages(first)[0]["model"]["digest"]
    place = stillhouse.home / "store" / "sha256" / digest[:2] / digest[2:4] / digest
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])
    second = stillhouse.run(small_plan, "--no-rollout")
    assert [stage["cached"] for stage in stages(second)] == [False, True]
    assert digests(second) == digests(first)
    assert place.read_bytes() == whole


def test_two_equal_runs_at_once_compute_each_stage_once(stillhouse: Any, small_plan: Path) -> None:
    first = stillhouse.start("run", str(small_plan), "--no-rollout", "--json", str(stillhouse.project / "1.json"))
    second = stillhouse.run(small_plan, "--no-rollout")
    output, _ = first.communicate(timeout=280)
    assert first.returncode == 0, output
    records = [json.loads((stillhouse.project / "1.json").read_text()), second]
    for one, other in zip(*(stages(record) for record in records), strict=True):
        assert {one["cached"], other["cached"]} == {True, False}
    assert digests(records[0]) == digests(records[1])


def test_two_hosts_at_once_compute_each_stage_once_when_ledger_and_tracking_are_in_postgresql(
    stillhouse: Any, small_plan: Path, ledger_url: str, postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_STORE", str(stillhouse.project / "store"))
    monkeypatch.setenv("STILLHOUSE_LEDGER_URL", ledger_url)
    monkeypatch.setenv("STILLHOUSE_TRACKING_URL", postgres_server.database())
    monkeypatch.setenv("STILLHOUSE_MLFLOW_ARTIFACTS", str(stillhouse.project / "mlflow-artifacts"))
    other_host = replace(stillhouse, home=stillhouse.home.with_name("other-home"))

    places = [stillhouse.project / "1.json", stillhouse.project / "2.json"]
    runs = [
        host.start("run", str(small_plan), "--no-rollout", "--json", str(place))
        for host, place in zip((stillhouse, other_host), places, strict=True)
    ]
    for run in runs:
        output, _ = run.communicate(timeout=900)
        assert run.returncode == 0, output

    records = [json.loads(place.read_text()) for place in places]
    for one, other in zip(*(stages(record) for record in records), strict=True):
        assert {one["cached"], other["cached"]} == {True, False}
    assert digests(records[0]) == digests(records[1])
    assert postgres_server.query(ledger_url, "SELECT name FROM leases") == []
    ((champions,),) = postgres_server.query(ledger_url, "SELECT count(*) FROM promotions")
    assert champions == 1


def test_run_says_inconclusive_with_the_rows_needed_when_the_split_is_too_small(
    stillhouse: Any, small_plan: Path
) -> None:
    output = stillhouse.call("run", str(small_plan), "--set", "constraints.max_accuracy_drop=0.001", code=1)
    assert "INCONCLUSIVE" in output
    assert "rows would settle it" in output


@pytest.mark.slow
def test_run_ends_a_chain_at_the_stage_that_breaks_its_early_stop(stillhouse: Any, small_plan: Path) -> None:
    weak = ("--set", "candidates.student.0.schedule.epochs=1", "--set", "early_stop.max_accuracy_drop=0.05")
    record = stillhouse.run(small_plan, *weak, code=1)

    (candidate,) = record["candidates"]
    assert [stage["kind"] for stage in candidate["stages"]] == ["distill_response"]
    assert candidate["gate"]["verdict"] == "FAIL"
    assert record["chosen"] is None
