import json
import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from dossiers import make_dossier
from mlflow import MlflowClient
from model_world import digest_of, linear_model, run_json

from tasks.adapters.route_store import RouteStore
from tasks.contracts.errors import ModelError, UserError
from tasks.contracts.registration import CARD_TAG
from tasks.contracts.route import Arm
from tasks.contracts.value import sha256_hex
from tasks.reporting.model_card import ModelCard, make_model_card
from tasks.reporting.model_card_text import card_markdown


def test_pull_writes_the_very_bytes_when_a_version_is_named(run, tmp_path):
    out = tmp_path / "deep" / "model.onnx"

    pulled = run_json(run, "model", "pull", "digits/2", "--out", out)

    assert pulled["digest"] == sha256_hex(out.read_bytes()) == digest_of(2)
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"input": np.ones((1, 4), np.float32)})[0], [[8.0] * 3])


def test_pull_imports_neither_mlflow_nor_sqlalchemy_when_named_by_digest(services, tmp_path):
    code = (
        "import sys; from pathlib import Path; from flows.cli.model_artifacts import pull\n"
        f"pull({digest_of(1)!r}, Path({str(tmp_path / 'm.onnx')!r}))\n"
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
    assert [check["name"] for check in verified["checks"]] == ["artifact", "runs", "alias", "route", "signature"]
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


def test_verify_names_the_remedy_when_the_route_serves_another_model(run, services):
    routes = RouteStore(services.documents, services.acknowledgements)
    current = routes.current("digits")
    other = next(version for version in (1, 2, 3) if version != current.route.champion.version)
    arm = Arm(digest=digest_of(other), version=other)
    routes.publish(current.route.model_copy(update={"champion": arm}), current.version)

    code, output = run("model", "verify", "digits")
    run("model", "reconcile", "digits")

    assert code == 1
    assert "reconcile" in output
    assert run("model", "verify", "digits")[0] == 0


def test_card_shows_the_text_and_the_facts_of_a_version(run, services):
    dossier = make_dossier()
    card = make_model_card(dossier, "digits", "student-pruned-int8")
    stored = services.artifacts.put(card.canonical_json())
    MlflowClient(services.settings.tracking_address).set_model_version_tag("digits", "3", CARD_TAG, stored.digest)

    shown = run("model", "card", "digits/3")[1]
    facts = run_json(run, "model", "card", "digits/3")

    assert shown == card_markdown(ModelCard.model_validate_json(card.canonical_json()))
    assert facts["schema"] == "stillhouse.model-card/1"
    assert ModelCard.model_validate(facts) == card


@pytest.mark.parametrize("reference", ["digits/1", digest_of(1)])
def test_card_says_where_cards_come_from_when_there_is_none(run, reference):
    with pytest.raises(ModelError, match="has no model card; `stillhouse run` makes one"):
        run("model", "card", reference)
