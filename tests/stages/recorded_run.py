"""A run to record, and a tracker and a registry that keep what they are given in memory."""

import io
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.contracts.data import SPLIT_NAMES, DatasetRef, SplitRef
from tasks.contracts.model import ModelRef
from tasks.contracts.registration import DIGEST_TAG
from tasks.contracts.run import RunDossier
from tasks.contracts.value import sha256_hex
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.services import Services

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))
from dossiers import make_dossier  # the dossiers that the report's tests use


@dataclass
class Tracker:
    """Runs found by their key; what was logged on them."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def parent_run(self, experiment, flow_run_id, name, params):
        return self._found(f"{experiment}/{flow_run_id}", name=name, params=params, parent=None)

    def stage_run(self, experiment, parent_run_id, stage_key, name, params, metrics, history, tags, usage=()):
        return self._found(
            f"{experiment}/{stage_key}", name=name, params=params, parent=parent_run_id, metrics=metrics, tags=tags
        )

    def finish_parent(self, run_id, metrics, tags, files, status):
        self.runs[run_id].setdefault("files", {}).update(files)
        self.runs[run_id].setdefault("tags", {}).update(tags)
        self.runs[run_id].setdefault("metrics", {}).update(metrics)
        self.runs[run_id]["status"] = status

    def flow_run_of(self, run_id):
        return self.runs.get(run_id, {}).get("flow_run")

    def _found(self, run_id, **logged):
        self.runs.setdefault(run_id, logged)
        return run_id


@dataclass
class Registry:
    """Versions with their tags, files and aliases, in memory."""

    made: list[dict[str, Any]] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)

    def register(self, name, digest, onnx_model, example, tags, files, parent_run_id, description=""):
        assert sha256_hex(onnx_model) == digest
        for number, one in enumerate(self.made, start=1):
            if one["tags"][DIGEST_TAG] == digest:
                return self.version(name, number)
        tags = {**tags, DIGEST_TAG: digest}
        self.made.append({"tags": tags, "files": files, "example": example, "description": description})
        return self.version(name, len(self.made))

    def version(self, name, version):
        aliases = tuple(alias for alias, of in self.aliases.items() if of == version)
        return RegisteredVersion(name, version, aliases, self.made[version - 1]["tags"])

    def versions(self, name):
        return [self.version(name, number) for number in range(1, len(self.made) + 1)]

    def version_of(self, name, alias):
        return self.version(name, self.aliases[alias]) if alias in self.aliases else None

    def set_alias(self, name, alias, version):
        self.aliases[alias] = version

    def delete_alias(self, name, alias):
        self.aliases.pop(alias, None)


def stored_dossier(outside: Services) -> RunDossier:
    """A run whose baseline, chosen model and calibration rows lie in the store."""
    dossier = make_dossier(rollout=None, registered=False)
    split = stored_split(outside)
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


def whole_dossier(outside: Services) -> RunDossier:
    """Return the dossier of a run of which everything lies in the store, under the digests that it names."""
    dossier = stored_dossier(outside)
    split = stored_split(outside)
    splits = {name: split for name in SPLIT_NAMES if name != "unlabelled"}
    data = dossier.dataset.model_copy(update={"splits": splits})
    plan = dossier.record.plan.model_copy(update={"digest": plan_digest(dossier)})
    gates = {}
    for summary in dossier.record.candidates:
        one = dossier.candidates[summary.name]
        models = [stored(outside, f"{summary.name} {stage.kind}".encode()) for stage in one.stages]
        stages = tuple(
            stage.model_copy(update={"model": model}) for stage, model in zip(one.stages, models, strict=True)
        )
        if stages:  # the deployable one is what the record names
            stages = (*stages[:-1], stages[-1].model_copy(update={"model": summary.stages[-1].model}))
        gate = one.gate
        if gate is not None:
            report = gate.report.model_copy(update={"candidate": summary.stages[-1].model.digest})
            blob = outside.artifacts.put(report.canonical_json())
            gate = gate.model_copy(update={"report": report, "artifact": blob})
        gates[summary.name] = one.model_copy(update={"stages": stages, "gate": gate})
    baseline = dossier.baseline_stage.model_copy(update={"model": stored(outside, b"baseline, torch")})
    dossier = dossier.model_copy(update={"dataset": data, "candidates": gates, "baseline_stage": baseline})
    summary = dossier.record.dataset.model_copy(update={"digest": data.digest})
    return dossier.with_record(dataset=summary, plan=plan)


def plan_digest(dossier: RunDossier) -> str:
    return sha256_hex(json.dumps(dossier.plan_document, sort_keys=True, separators=(",", ":")).encode())


def stored_split(outside: Services) -> SplitRef:
    rows = io.BytesIO()
    np.savez(rows, x=np.zeros((3, 1, 8, 8), np.float32), y=np.arange(3))
    blob = outside.artifacts.put(rows.getvalue())
    return SplitRef(digest=blob.digest, size_bytes=blob.size_bytes, num_rows=3, composition={})
