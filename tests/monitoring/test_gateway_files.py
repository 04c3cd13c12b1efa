"""The dashboard and the alert rules speak of metrics that the gateway has; promtool proves what the rules do."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from infra.gateway.config import GatewayConfig
from infra.gateway.metrics import GatewayMetrics

FOLDER = Path(__file__).parents[2] / "infra" / "monitoring"
RUNBOOK = FOLDER.parents[1] / "docs" / "serving-performance.md"
DASHBOARD = json.loads((FOLDER / "gateway-dashboard.json").read_text())
RULES = [
    rule for group in yaml.safe_load((FOLDER / "gateway-rules.yaml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
OF_PROMETHEUS = {"up": set(), **{rule["record"]: {"model"} for rule in RULES if "record" in rule}}
OF_THE_TARGET = {"job", "instance"}
NAME = r"\b(?:stillhouse[:_]\w[\w:]*|process_\w+|up)\b"


def expressions():
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"], rule.get("annotations", {}).get("summary", "")
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]
    for note in DASHBOARD["annotations"]["list"]:
        yield note["name"], note["expr"], note["titleFormat"]


@pytest.fixture(scope="module")
def known():
    """Labels of every series that a gateway can have, by its name."""
    metrics = GatewayMetrics()
    metrics.latency.observe("m", "champion", 0.1, 1)
    for counter in (metrics.cache_hits, metrics.cache_misses):
        counter.count("m", "champion")
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase) and metric._labelnames:
            metric.labels(*metric._labelnames)
    series = dict(OF_PROMETHEUS)
    for family in metrics.registry.collect():
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


@pytest.mark.parametrize(("where", "expression", "text"), list(expressions()))
def test_every_metric_and_label_that_is_named_exists(known, where, expression, text):
    names = set(re.findall(NAME, re.sub(r'"[^"]*"', '""', expression)))
    assert names, expression
    assert names <= known.keys(), f"{where} names {sorted(names - known.keys())}"
    for name, matchers in re.findall(rf"({NAME})\{{([^}}]*)\}}", expression):
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert used <= known[name] | OF_THE_TARGET, f"{where} asks {name} for {sorted(used - known[name])}"
    labels = set().union(*(known[name] for name in names)) | OF_THE_TARGET
    grouped = {
        label.strip() for clause in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression) for label in clause.split(",")
    }
    assert grouped <= labels, f"{where} groups by {sorted(grouped - labels)}"
    shown = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text))
    assert shown <= labels, f"{where} shows {sorted(shown - labels)}"


def test_no_metric_of_the_gateway_is_without_a_panel(known):
    text = " ".join(expression for _, expression, _ in expressions())
    ours = {re.sub(r"_(bucket|count|sum|total|created)$", "", name) for name in known if name.startswith("stillhouse_")}
    assert {name for name in ours if name not in text} == {"stillhouse_gateway_rows"}  # the requests are shown


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_waits_has_a_severity_and_a_runbook_that_exists(alert):
    assert re.fullmatch(r"\d+m", alert["for"])
    assert alert["labels"]["severity"] in ("warning", "critical")
    file, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert FOLDER.parents[1] / file == RUNBOOK
    assert f"### {alert['alert']}\n" in RUNBOOK.read_text()
    assert anchor == alert["alert"].lower()


def test_every_alert_has_a_test_that_rings_it_and_one_that_does_not():
    tests = yaml.safe_load((FOLDER / "gateway-rules-test.yaml").read_text())["tests"]
    asserted = [(part["alertname"], bool(part.get("exp_alerts"))) for test in tests for part in test["alert_rule_test"]]
    assert set(asserted) == {(rule["alert"], rings) for rule in ALERTS for rings in (True, False)}


def test_prometheus_scrapes_the_gateways_own_port_on_loopback():
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["job_name"] == "stillhouse-gateway"
    port = GatewayConfig.model_fields["port"].default
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH; Debian's package is prometheus")
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "gateway-rules.yaml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "gateway-rules-test.yaml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts(command):
    done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
