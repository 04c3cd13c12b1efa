"""What a run leaves in the registry: a signed version with its card, and a lineage without gaps."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def kinds(link: dict[str, Any]) -> list[str]:
    return [link["kind"], *(kind for one in link["rests_on"] for kind in kinds(one))]


def test_run_signs_describes_and_traces_what_it_promotes(
    stillhouse: Any, small_plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = stillhouse.project / "keys"
    made = json.loads(stillhouse.call("model", "keygen", str(keys / "own.pem"), "--json"))
    monkeypatch.setenv("STILLHOUSE_SIGNING_KEY", made["private"])
    monkeypatch.setenv("STILLHOUSE_VERIFY_KEYS", made["public"])

    # gateways that verify signatures serve the trial of the gate, and the whole rollout
    record = stillhouse.run(small_plan)
    assert record["rollout"]["verdict"] == "promote"

    checks = json.loads(stillhouse.call("model", "verify", "small", "--json"))["checks"]
    (signature,) = [check for check in checks if check["name"] == "signature"]
    assert signature["detail"].startswith("valid: ")
    assert made["key_id"] in signature["detail"]

    chosen = record["candidates"][0]["stages"][-1]
    card = json.loads(stillhouse.call("model", "card", "small@champion", "--json"))
    assert (card["digest"], card["verdict"]) == (chosen["model"]["digest"], "PASS")
    assert card["evaluation"] == chosen["evaluation"]
    assert card["data"]["license"] == "CC-BY-4.0"
    assert [stage["kind"] for stage in card["stages"]] == ["train", "distill_response", "quantize_static"]
    assert "## Limits" in stillhouse.call("model", "card", "small@champion")
    assert json.loads(stillhouse.call("model", "card", "small@previous", "--json"))["candidate"] is None

    traced = json.loads(stillhouse.call("model", "lineage", "small", "--json"))
    assert traced["complete"], traced["missing"]
    assert {"gate report", "model card", "signature", "run", "plan", "stage", "baseline", "data", "split"} <= set(
        kinds(traced["lineage"])
    )
    log = sorted((stillhouse.home / "traffic" / "small" / "predictions").rglob("*.parquet"))[-1]
    request_id = pq.read_table(log, columns=["request_id"])["request_id"][0].as_py()
    served = json.loads(stillhouse.call("model", "lineage", f"request:{request_id}", "--json"))
    assert served["complete"], served["missing"]
    assert served["lineage"]["kind"] == "request"
    assert {"answer", "route", "version", "data"} <= set(kinds(served["lineage"]))
