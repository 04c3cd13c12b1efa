import io
import json
import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import typer
from mlflow import MlflowClient
from onnx import TensorProto, helper
from typer.testing import CliRunner

from flows.cli import model as model_cli
from flows.cli.console import console
from tasks.contracts.errors import GateError, ModelError, StaleChampionError, UserError
from tasks.contracts.registration import SIGNATURE_TAG
from tasks.contracts.route import Arm, ModelSignature
from tasks.contracts.value import sha256_hex
from tasks.contracts.verdict import Check, GateReport, Verdict
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings, current_settings
from tasks.stages.promoting import bootstrap
from tasks.stages.rollout_record import GATE_REPORT_TAG

app = typer.Typer()
app.add_typer(model_cli.app, name="model")
app.command()(model_cli.promote)

SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c"))
NOW = "2026-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """Real store, ledger and MLflow with model `digits`: version 1 is champion, 2 and 3 are gated."""
    services = connect(Settings(home=tmp_path_factory.mktemp("home")))
    parent = services.tracker.parent_run("digits", "flow", "run", {})
    for weight in (1.0, 2.0, 3.0):
        _register(services, parent, weight)
    bootstrap(services, "digits", 1, "flow", "the [first] one", NOW)
    return services


def linear_model(weight):
    matrix = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.full(12, weight, dtype=np.float32))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [matrix],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def _register(services, parent, weight):
    model = linear_model(weight)
    example = io.BytesIO()
    np.savez(example, x=np.ones((2, 4), np.float32))
    digest = services.artifacts.put(model).digest
    tags = {SIGNATURE_TAG: SIGNATURE.model_dump_json()}
    services.registry.register("digits", digest, model, example.getvalue(), tags, {}, parent)


def digest_of(version):
    return sha256_hex(linear_model(float(version)))


def gate_report(services, version, verdict=Verdict.PASS):
    check = Check(name="accuracy", verdict=verdict, estimate=0.0, bound=0.0, margin=0.01, num_rows=100)
    report = GateReport(
        model_name="digits", candidate_name="small", candidate=digest_of(version), baseline="b" * 64, dataset="d" * 64,
        plan="e" * 64, verdict=verdict, checks=(check,), alpha=0.05, created_at=NOW,
    )  # fmt: skip
    return services.artifacts.put(report.canonical_json()).digest


@pytest.fixture
def run(services, monkeypatch):
    """Run a command line and return (exit code, output); errors of ours come through, as the root expects."""
    monkeypatch.setenv("STILLHOUSE_HOME", str(services.settings.home))
    monkeypatch.setenv("COLUMNS", "200")
    current_settings.cache_clear()
    connect.cache_clear()

    def call(*arguments):
        console.cache_clear()  # rich keeps the stream that it was made with
        outcome = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        return outcome.exit_code, outcome.stdout

    yield call
    console.cache_clear()


def run_json(run, *arguments):
    code, output = run(*arguments, "--json")
    assert code == 0
    return json.loads(output)


def test_ls_lists_versions_and_aliases_when_a_model_is_registered(run):
    listed = run_json(run, "model", "ls")

    assert [(model["name"], model["num_versions"]) for model in listed] == [("digits", 3)]
    assert "champion" in listed[0]["aliases"]
    assert "digits" in run("model", "ls")[1]


@pytest.mark.parametrize("reference", ["digits/1", digest_of(1)])
def test_inspect_describes_the_artifact_when_named_either_way(run, reference):
    described = run_json(run, "model", "inspect", reference)

    assert (described["digest"], described["format"]) == (digest_of(1), "onnx")
    assert described["size_bytes"] == len(linear_model(1.0))


def test_inspect_shows_tags_and_ledger_when_the_model_is_registered(run):
    described = run_json(run, "model", "inspect", "digits")

    assert ModelSignature.model_validate_json(described["tags"][SIGNATURE_TAG]) == SIGNATURE
    assert described["history"][0]["action"] == "bootstrap"
    assert "the [first] one" in run("model", "inspect", "digits")[1]


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("Digits!", UserError, "names no model"),
        ("letters", ModelError, "there are: digits"),
        ("digits@nobody", ModelError, "no alias 'nobody'; it has: champion"),
        ("digits/9", ModelError, "no version 9"),
    ],
)
def test_inspect_says_what_there_is_when_the_reference_leads_nowhere(run, reference, error, message):
    with pytest.raises(error, match=message):
        run("model", "inspect", reference)


def test_pull_writes_the_very_bytes_when_a_version_is_named(run, tmp_path):
    out = tmp_path / "deep" / "model.onnx"

    pulled = run_json(run, "model", "pull", "digits/2", "--out", out)

    assert pulled["digest"] == sha256_hex(out.read_bytes()) == digest_of(2)
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"input": np.ones((1, 4), np.float32)})[0], [[8.0] * 3])


def test_pull_imports_neither_mlflow_nor_sqlalchemy_when_named_by_digest(services, tmp_path):
    code = (
        "import sys; from pathlib import Path; from flows.cli import model\n"
        f"model.pull({digest_of(1)!r}, Path({str(tmp_path / 'm.onnx')!r}))\n"
        "sys.exit(bool({'mlflow', 'sqlalchemy', 'torch'} & set(sys.modules)))"
    )
    environment = os.environ | {"STILLHOUSE_HOME": str(services.settings.home)}

    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m.onnx").read_bytes() == linear_model(1.0)


def test_pull_refuses_when_the_file_cannot_be_written(run, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match="writable folder"):
        run("model", "pull", "digits/2", "--out", tmp_path / "file" / "model.onnx")


def test_verify_passes_when_artifact_alias_ledger_and_route_agree(run):
    verified = run_json(run, "model", "verify", "digits")

    assert verified["passed"]
    assert [check["name"] for check in verified["checks"]] == ["artifact", "runs", "alias", "route"]
    assert run("model", "verify", digest_of(3))[0] == 0


def test_verify_fails_and_reconcile_mends_when_alias_and_route_were_changed_by_hand(run, services):
    champion = services.ledger.champion("digits")
    wrong = next(version for version in (1, 2, 3) if version != champion.version)
    services.registry.set_alias("digits", "champion", wrong)

    code, output = run("model", "verify", f"digits/{champion.version}", "--json")
    mended = run_json(run, "model", "reconcile", "digits")

    failed = [check for check in json.loads(output)["checks"] if not check["passed"]]
    assert code == 1
    assert [check["name"] for check in failed] == ["alias"]
    assert "stillhouse model reconcile digits" in failed[0]["detail"]
    assert mended["changes"] == [f"alias champion: version {wrong} -> version {champion.version}"]
    assert run("model", "verify", "digits")[0] == 0


def test_verify_fails_when_the_artifact_is_truncated(run, services):
    model = linear_model(99.0)
    digest = services.artifacts.put(model).digest
    path = services.settings.store_root / "sha256" / digest[:2] / digest[2:4] / digest
    path.write_bytes(model[:-10])

    code, output = run("model", "verify", digest)

    assert code == 1
    assert "damaged" in output


def test_promote_and_rollback_move_the_champion_when_the_gate_passed(run, services):
    report = gate_report(services, 2)
    promoted = run_json(run, "promote", "digits", "--version", 2, "--gate", report, "--expect", digest_of(1))
    again = run_json(run, "promote", "digits", "--version", 2, "--gate", report)

    assert promoted == again
    assert promoted["version"] == 2
    assert services.registry.version_of("digits", "champion").version == 2
    assert services.registry.version_of("digits", "previous").version == 1

    rolled_back = run_json(run, "model", "rollback", "digits", "--reason", "errors", "--expect", digest_of(2))
    assert (rolled_back["action"], rolled_back["version"]) == ("rollback", 1)
    assert services.registry.version_of("digits", "champion").version == 1
    assert run("model", "verify", "digits")[0] == 0


def test_history_tells_who_was_champion_and_why(run):
    entries = run_json(run, "model", "history", "digits")

    assert [entry["sequence"] for entry in entries] == list(range(1, len(entries) + 1))
    assert (entries[0]["action"], entries[0]["actor"], entries[0]["reason"]) == ("bootstrap", "flow", "the [first] one")
    assert "the [first] one" in run("model", "history", "digits")[1]


def test_history_names_the_models_that_there_are_when_the_name_is_wrong(run):
    with pytest.raises(ModelError, match="no entry of 'letters'; the registry knows: digits"):
        run("model", "history", "letters")


def test_diff_shows_files_lineage_and_gates(run, services):
    for version, verdict in ((2, Verdict.PASS), (3, Verdict.FAIL)):
        tags = services.registry.version("digits", version).tags
        assert GATE_REPORT_TAG not in tags
        report = gate_report(services, version, verdict)
        MlflowClient(services.settings.tracking_address).set_model_version_tag(
            "digits", str(version), GATE_REPORT_TAG, report
        )

    found = run_json(run, "model", "diff", "digits/2", "digits/3")

    differing = {(one["about"], one["name"]): (one["first"], one["second"]) for one in found["differences"]}
    assert differing[("lineage", "stillhouse.digest")] == (digest_of(2), digest_of(3))
    assert differing[("gate", "verdict")] == ("PASS", "FAIL")
    assert differing[("gate", "accuracy")] == ("0 PASS", "0 FAIL")
    assert ("file", "size in bytes") not in differing
    assert ("lineage", SIGNATURE_TAG) not in differing
    assert (found["first"], found["second"]) == (digest_of(2), digest_of(3))
    assert f"{found['num_shared']} are equal" in run("model", "diff", "digits/2", "digits/3")[1]


def test_diff_of_a_model_with_itself_finds_nothing(run):
    found = run_json(run, "model", "diff", "digits/1", digest_of(1))

    assert {one["about"] for one in found["differences"]} == {"lineage"}  # a digest alone has no version's tags
    assert run_json(run, "model", "diff", "digits/1", "digits/1")["differences"] == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--gate", "not-a-digest"], UserError),
        (["--gate", "FAIL"], GateError),
        (["--gate", "PASS", "--expect", "f" * 64], StaleChampionError),
    ],
)
def test_promote_refuses_and_changes_nothing_when_the_evidence_does_not_hold(run, services, options, error):
    before = services.ledger.history("digits")
    replaced = [
        gate_report(services, 3, Verdict(option)) if option in Verdict.__members__ else option for option in options
    ]

    with pytest.raises(error):
        run("promote", "digits", "--version", 3, *replaced)
    assert services.ledger.history("digits") == before


def test_verify_names_the_remedy_when_the_route_serves_another_model(run, services):
    from tasks.adapters.route_store import RouteStore

    routes = RouteStore(services.documents, services.settings.store_root)
    current = routes.current("digits")
    other = next(version for version in (1, 2, 3) if version != current.route.champion.version)
    arm = Arm(digest=digest_of(other), version=other)
    routes.publish(current.route.model_copy(update={"champion": arm}), current.version)

    code, output = run("model", "verify", "digits")
    run("model", "reconcile", "digits")

    assert code == 1
    assert "reconcile" in output
    assert run("model", "verify", "digits")[0] == 0
