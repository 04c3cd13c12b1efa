import io
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.adapters.route_store import RouteStore
from tasks.contracts.data import DatasetRef, SplitRef
from tasks.contracts.errors import ModelError
from tasks.contracts.model import ModelRef
from tasks.contracts.registration import DIGEST_TAG, SIGNATURE_TAG
from tasks.contracts.run import RunDossier
from tasks.contracts.value import sha256_hex
from tasks.runtime.services import RegisteredVersion, Services
from tasks.stages.baselines import BASELINE_TAG, TORCH_DIGEST_TAG
from tasks.stages.recording import attach_report, record_run, register_challenger
from tasks.stages.rollout_record import GATE_REPORT_TAG
from tasks.stages.signature import signature_of

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))
from dossiers import make_dossier  # the dossiers that the report's tests use


@dataclass
class Tracker:
    """Runs found by their key; what was logged on them."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def parent_run(self, experiment, flow_run_id, name, params):
        return self._found(f"{experiment}/{flow_run_id}", name=name, params=params, parent=None)

    def stage_run(self, experiment, parent_run_id, stage_key, name, params, metrics, history, tags):
        return self._found(
            f"{experiment}/{stage_key}", name=name, params=params, parent=parent_run_id, metrics=metrics, tags=tags
        )

    def finish_parent(self, run_id, metrics, tags, files, status):
        self.runs[run_id].setdefault("files", {}).update(files)
        self.runs[run_id].setdefault("tags", {}).update(tags)
        self.runs[run_id].setdefault("metrics", {}).update(metrics)
        self.runs[run_id]["status"] = status

    def _found(self, run_id, **logged):
        self.runs.setdefault(run_id, logged)
        return run_id


@dataclass
class Registry:
    """Versions with their tags, files and aliases, in memory."""

    made: list[dict[str, Any]] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)

    def register(self, name, digest, onnx_model, example, tags, files, parent_run_id):
        assert sha256_hex(onnx_model) == digest
        for number, one in enumerate(self.made, start=1):
            if one["tags"][DIGEST_TAG] == digest:
                return self.version(name, number)
        self.made.append({"tags": {**tags, DIGEST_TAG: digest}, "files": files, "example": example})
        return self.version(name, len(self.made))

    def version(self, name, version):
        aliases = tuple(alias for alias, of in self.aliases.items() if of == version)
        return RegisteredVersion(name, version, aliases, self.made[version - 1]["tags"])

    def version_of(self, name, alias):
        return self.version(name, self.aliases[alias]) if alias in self.aliases else None

    def set_alias(self, name, alias, version):
        self.aliases[alias] = version

    def delete_alias(self, name, alias):
        self.aliases.pop(alias, None)


@pytest.fixture
def outside(services: Services) -> Services:
    tracker, registry = Tracker(), Registry()
    return replace(services, make_tracker=lambda: tracker, make_registry=lambda: registry)


@pytest.fixture
def dossier(outside: Services) -> RunDossier:
    """A run whose baseline, chosen model and calibration rows lie in the store."""
    dossier = make_dossier(rollout=None, registered=False)
    rows = io.BytesIO()
    np.savez(rows, x=np.zeros((3, 1, 8, 8), np.float32), y=np.arange(3))
    blob = outside.artifacts.put(rows.getvalue())
    split = SplitRef(digest=blob.digest, size_bytes=blob.size_bytes, num_rows=3, composition={})
    data = DatasetRef.model_validate(dossier.dataset.model_dump() | {"splits": {"calibration": split}})
    baseline = dossier.record.baseline.model_copy(update={"model": stored(outside, b"baseline")})
    candidates = list(dossier.record.candidates)
    chosen = candidates[1]
    last = chosen.stages[-1].model_copy(update={"model": stored(outside, b"chosen")})
    candidates[1] = chosen.model_copy(update={"stages": (*chosen.stages[:-1], last)})
    plan = dossier.plan_document | {"baseline": {"train": {"model": {"factory": "a:b"}, "schedule": {"epochs": 40}}}}
    return dossier.model_copy(update={"dataset": data, "plan_document": plan}).with_record(
        baseline=baseline, candidates=tuple(candidates)
    )


def stored(services: Services, model: bytes) -> ModelRef:
    blob = services.artifacts.put(model)
    return ModelRef(digest=blob.digest, format="onnx", size_bytes=blob.size_bytes)


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
    assert set(chosen["files"]) == {"report.html", "gate.json", "plan.yaml", "run.json"}
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
    routed = RouteStore(outside.documents, outside.settings.store_root).current("digits")
    assert (routed.route.champion.version, routed.route.challenger) == (1, None)


def test_register_challenger_takes_the_model_name_of_the_plan(outside: Services, dossier: RunDossier) -> None:
    named = dossier.model_copy(update={"plan_document": dossier.plan_document | {"model_name": "reader"}})

    assert register_challenger(outside, named, "parent", "<html>").name == "reader"
    assert outside.ledger.champion("reader").version == 1


def test_register_challenger_refuses_when_no_candidate_was_chosen(outside: Services, dossier: RunDossier) -> None:
    with pytest.raises(ModelError, match="chose no candidate"):
        register_challenger(outside, dossier.with_record(chosen=None), "parent", "<html>")
    assert outside.registry.made == []
