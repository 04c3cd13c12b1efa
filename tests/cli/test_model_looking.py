import pytest
from mlflow import MlflowClient
from model_world import SIGNATURE, digest_of, gate_report, linear_model, run_json

from tasks.contracts.errors import ModelError, UserError
from tasks.contracts.registration import SIGNATURE_TAG
from tasks.contracts.route import ModelSignature
from tasks.contracts.verdict import Verdict
from tasks.stages.rollout_record import GATE_REPORT_TAG


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
