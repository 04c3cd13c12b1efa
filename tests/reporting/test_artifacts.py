"""Prefect's artifacts say what the page says."""

import json
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import httpx
import pytest
from dossiers import CHAINS, make_dossier

from tasks.contracts.errors import ServiceUnavailableError
from tasks.reporting.artifacts import (
    escape_markdown,
    gate_markdown,
    pareto_image,
    publish_artifacts,
    stable_key,
    stage_table,
)


def test_stable_key_is_what_prefect_allows_and_the_same_for_every_run():
    assert stable_key("digits", "gate") == "digits-gate"
    assert stable_key("My Plan_2!", "gate") == "my-plan-2-gate"
    assert stable_key("\u00e9", "gate") == "plan-gate"


def test_stage_table_has_a_row_for_the_baseline_and_every_stage():
    rows = stage_table(make_dossier())
    assert [(row["candidate"], row["stage"]) for row in rows][:3] == [
        ("baseline", "train"),
        ("student-int8", "distill_response"),
        ("student-int8", "quantize_static"),
    ]
    assert len(rows) == 1 + sum(len(chain.stages) for chain in CHAINS)
    assert rows[1] == {
        "candidate": "student-int8",
        "stage": "distill_response",
        "cached": "yes",
        "seconds": 68.4,
        "host": "worker-1",
        "bytes": 92_310,
        "accuracy": 0.9789,
        "p50_ms": 0.0713,
    }
    assert (rows[0]["accuracy"], rows[2]["accuracy"]) == (0.9895, 0.9768)  # on validation, like the stages between
    json.dumps(rows)


def test_pareto_image_is_a_drawing_in_a_data_uri():
    image = pareto_image(make_dossier())
    head, body = image.split(",", 1)
    assert head == "data:image/svg+xml"
    assert not re.search(r"[#<>\"%](?![0-9A-F]{2})", body)
    assert ElementTree.fromstring(unquote(body)).tag.endswith("svg")


def test_gate_markdown_has_every_check_of_every_candidate():
    dossier = make_dossier()
    text = gate_markdown(dossier)
    checks = [check for one in dossier.candidates.values() if one.gate for check in one.gate.report.checks]
    assert text.count("\n| ") == len(checks) + 2  # and a head for each table
    assert "needs 1,237" in text
    assert "## pruned-int8: FAIL\n\nNot judged: TechniqueError: training diverged" in text


def test_gate_markdown_has_six_bars_a_row_whatever_the_texts_hold():
    text = gate_markdown(make_dossier(class_names=("a|b", "c\nd", "<i>")))
    rows = [line for line in text.splitlines() if line.startswith("| ") and "verdict" not in line]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 8 for row in rows)


def test_escape_markdown_keeps_a_text_on_one_line_and_plain():
    assert escape_markdown("a\nb *c* <d>") == "a b \\*c\\* \\<d\\>"


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), RuntimeError("Failed to reach API")])
def test_publish_artifacts_is_to_be_tried_again_when_the_server_is_away(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def create(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("prefect.artifacts.create_table_artifact", create)
    with pytest.raises(ServiceUnavailableError, match="PREFECT_API_URL"):
        publish_artifacts(make_dossier())


@pytest.mark.slow
def test_publish_artifacts_creates_versions_of_four_artifacts():
    """Two runs of one plan make two versions under the same four keys."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    @flow
    def publish() -> None:
        publish_artifacts(make_dossier())

    with prefect_test_harness(server_startup_timeout=120):
        publish()
        publish()
        with get_client(sync_client=True) as client:
            made = client.read_artifacts()
    kinds = sorted((one.key, one.type) for one in made)
    once = [("digits-gate", "markdown"), ("digits-pareto", "image"), ("digits-report", "markdown")]
    assert kinds == sorted([*once, ("digits-stages", "table")] * 2)
    image = next(one for one in made if one.type == "image")
    assert image.data == pareto_image(make_dossier())
    assert image.flow_run_id is not None
