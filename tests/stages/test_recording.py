import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from tasks.adapters.route_store import RouteStore
from tasks.adapters.signing_keys import make_key_pair
from tasks.contracts.errors import ModelError
from tasks.contracts.registration import CARD_TAG, DIGEST_TAG, RUN_TAG, SIGNATURE_TAG
from tasks.contracts.run import RunDossier
from tasks.reporting.model_card import ModelCard
from tasks.reporting.model_card_text import card_markdown, summary_of
from tasks.runtime.services import Services
from tasks.stages.baselines import BASELINE_TAG, TORCH_DIGEST_TAG
from tasks.stages.recording import attach_report, record_run, register_challenger
from tasks.stages.rollout_record import GATE_REPORT_TAG
from tasks.stages.signature import signature_of
from tasks.stages.signing import signature_verdict, signed_by

sys.path.insert(0, str(Path(__file__).parent))
from recorded_run import Registry, Tracker, stored_dossier  # a module beside this one


@pytest.fixture
def outside(services: Services) -> Services:
    tracker, registry = Tracker(), Registry()
    return replace(services, make_tracker=lambda: tracker, make_registry=lambda: registry)


@pytest.fixture
def dossier(outside: Services) -> RunDossier:
    """A run whose baseline, chosen model and calibration rows lie in the store."""
    return stored_dossier(outside)


def test_record_run_makes_one_run_per_stage_below_the_parent_and_links_them(
    outside: Services, dossier: RunDossier
) -> None:
    parent = record_run(outside, dossier)

    runs = outside.tracker.runs
    stages = {run["name"]: run for key, run in runs.items() if key != parent}
    assert set(stages) == {
        "baseline", "student-int8: distill_response", "student-int8: quantize_static",
        "student-pruned-int8: distill_response", "student-pruned-int8: prune_channels",
        "student-pruned-int8: quantize_static",
    }  # fmt: skip
    assert {run["parent"] for run in stages.values()} == {parent}
    assert stages["baseline"]["params"]["schedule.epochs"] == "40"
    pruned = stages["student-pruned-int8: prune_channels"]
    assert (pruned["params"]["criterion"], pruned["params"]["details.parameters_after"]) == ("bn_scale", "28112")
    assert {run["tags"]["stillhouse.host"] for run in stages.values()} == {"worker-1"}
    assert pruned["metrics"]["validation.accuracy"] == 0.9852
    assert pruned["metrics"]["latency_ms.batch_1.p50"] == 0.0904
    assert runs[parent]["status"] == "FINISHED"
    assert runs[parent]["tags"]["stillhouse.stage.student-pruned-int8.1"] in runs
    assert runs[parent]["tags"]["stillhouse.code"] == dossier.lineage["stillhouse.code"]
    assert runs[parent]["metrics"]["chosen.size_bytes"] == 61_540.0


def test_record_run_finds_what_is_there_when_repeated_or_when_another_run_shares_the_stages(
    outside: Services, dossier: RunDossier
) -> None:
    first = record_run(outside, dossier)
    num_runs = len(outside.tracker.runs)
    assert record_run(outside, dossier) == first
    assert len(outside.tracker.runs) == num_runs

    other = record_run(outside, dossier.with_record(run_id="another"))
    assert len(outside.tracker.runs) == num_runs + 1
    links = "stillhouse.stage.baseline"
    assert outside.tracker.runs[other]["tags"][links] == outside.tracker.runs[first]["tags"][links]


def test_attach_report_replaces_the_report_and_the_record(outside: Services, dossier: RunDossier) -> None:
    parent = record_run(outside, dossier)
    attach_report(outside, dossier, "first")
    attach_report(outside, dossier.with_record(chosen=None), "second")

    files = outside.tracker.runs[parent]["files"]
    assert files["report.html"] == b"second"
    assert json.loads(files["run.json"])["chosen"] is None


def test_register_challenger_makes_the_baseline_champion_first_and_tags_the_lineage(
    outside: Services, dossier: RunDossier
) -> None:
    registered = register_challenger(outside, dossier, "parent", "<html>")

    assert (registered.name, registered.version, registered.aliases) == ("digits", 2, ("challenger",))
    assert outside.registry.aliases == {"champion": 1, "challenger": 2}
    base, chosen = outside.registry.made
    assert base["tags"]["stillhouse.role"] == "baseline"
    assert base["tags"][TORCH_DIGEST_TAG] == dossier.baseline_stage.model.digest
    assert base["tags"][BASELINE_TAG] == dossier.baseline_stage.model.digest
    stages = dossier.candidates["student-pruned-int8"].stages
    tags = chosen["tags"]
    assert tags["stillhouse.chain"] == "distill_response > prune_channels > quantize_static"
    assert [tags[f"stillhouse.stage_digest.{n}"] for n in range(3)] == [stage.model.digest for stage in stages]
    assert tags[BASELINE_TAG] == dossier.baseline_stage.model.digest
    assert tags[TORCH_DIGEST_TAG] == stages[1].model.digest  # the last torch model of the chain
    assert tags[GATE_REPORT_TAG] == dossier.candidates["student-pruned-int8"].gate.artifact.digest
    assert tags[SIGNATURE_TAG] == signature_of(dossier.dataset).canonical_json().decode()
    assert tags["stillhouse.code"] == dossier.lineage["stillhouse.code"]
    assert "stillhouse.stages.student-int8" not in tags  # another chain's
    assert set(chosen["files"]) == {
        "report.html", "gate.json", "plan.yaml", "run.json", "model-card.md", "model-card.json",
    }  # fmt: skip
    assert np.load(io.BytesIO(chosen["example"]), allow_pickle=False)["x"].shape == (2, 1, 8, 8)


def test_register_challenger_changes_nothing_when_repeated(outside: Services, dossier: RunDossier) -> None:
    first = register_challenger(outside, dossier, "parent", "<html>")

    assert register_challenger(outside, dossier, "parent", "<html>") == first
    assert len(outside.registry.made) == 2
    assert len(outside.ledger.history("digits")) == 1


def test_register_challenger_mends_alias_and_route_when_the_first_run_died_after_the_ledger(
    outside: Services, dossier: RunDossier
) -> None:
    register_challenger(outside, dossier, "parent", "<html>")
    outside.registry.delete_alias("digits", "champion")

    register_challenger(outside, dossier, "parent", "<html>")

    assert outside.registry.aliases == {"champion": 1, "challenger": 2}
    routed = RouteStore(outside.documents, outside.acknowledgements).current("digits")
    assert (routed.route.champion.version, routed.route.challenger) == (1, None)


def test_register_challenger_takes_the_model_name_of_the_plan(outside: Services, dossier: RunDossier) -> None:
    named = dossier.model_copy(update={"plan_document": dossier.plan_document | {"model_name": "reader"}})

    assert register_challenger(outside, named, "parent", "<html>").name == "reader"
    assert outside.ledger.champion("reader").version == 1


def test_register_challenger_refuses_when_no_candidate_was_chosen(outside: Services, dossier: RunDossier) -> None:
    with pytest.raises(ModelError, match="chose no candidate"):
        register_challenger(outside, dossier.with_record(chosen=None), "parent", "<html>")
    assert outside.registry.made == []


def test_register_challenger_signs_before_it_registers_and_a_killed_run_is_completed_by_the_next(
    outside: Services, dossier: RunDossier, tmp_path: Path
) -> None:
    key_id = make_key_pair(tmp_path / "key.pem", tmp_path / "key.pub.pem")
    settings = outside.settings.model_copy(
        update={"signing_key": SecretStr(str(tmp_path / "key.pem")), "verify_keys": tmp_path / "key.pub.pem"}
    )
    signing = replace(outside, settings=settings)

    class Dying:
        """Dies where the first signature would be written: the artifact is there, its signature is not."""

        def __getattr__(self, name: str) -> Any:
            return getattr(outside.documents, name)

        def append(self, name: str, data: bytes, expected_version: int) -> Any:
            assert name.startswith("signatures/")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        register_challenger(replace(signing, documents=Dying()), dossier, "parent", "<html>")
    assert outside.registry.made == []
    assert outside.ledger.history("digits") == []

    register_challenger(signing, dossier, "parent", "<html>")
    digests = [one["tags"][DIGEST_TAG] for one in outside.registry.made]
    assert [signed_by(signing, "digits", digest) for digest in digests] == [[key_id], [key_id]]
    verdicts = [signature_verdict(signing, "digits", digest) for digest in digests]
    assert all(verdict is not None and verdict.trusted for verdict in verdicts)


def test_register_challenger_keeps_a_card_of_every_version(outside: Services, dossier: RunDossier) -> None:
    register_challenger(outside, dossier, "parent", "<html>")

    for one, candidate in zip(outside.registry.made, (None, "student-pruned-int8"), strict=True):
        facts = outside.artifacts.get(one["tags"][CARD_TAG])
        card = ModelCard.model_validate_json(facts)
        assert (card.candidate, card.digest) == (candidate, one["tags"][DIGEST_TAG])
        assert one["tags"][RUN_TAG] == card.run_id == dossier.record.run_id
        assert one["files"]["model-card.json"] == facts
        assert one["files"]["model-card.md"].decode() == card_markdown(card)
        assert one["description"] == summary_of(card)
