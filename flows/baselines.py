"""The baseline of a run: trained or loaded, exported, measured, and held against the pinned one."""

from __future__ import annotations

import json
from pathlib import Path

from flows.candidates import Baseline
from flows.forms import settle
from flows.plan import CompressionPlan
from tasks.adapters.local_store import write_atomically
from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import UserError
from tasks.contracts.run import BaselineSummary, RunDossier
from tasks.contracts.value import Digest, Value
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.load import load
from tasks.runtime.documents import record_document
from tasks.runtime.services import connect
from tasks.stages.baselines import find_baseline, find_start
from tasks.techniques.baseline import LoadBaseline, TrainBaseline
from tasks.train import train


class BaselineRecord(Value):
    """The uncompressed model that candidates of a plan are compared with, as it was measured."""

    plan: str
    dataset: Digest
    torch_model: Digest
    baseline: BaselineSummary
    machine: Digest
    """Fingerprint of the machine: latencies of two machines are not compared."""


def make_baseline(plan: CompressionPlan, data: DatasetRef) -> Baseline:
    """Train or load the baseline, export it, and evaluate it on the validation split."""
    match plan.baseline:
        case TrainBaseline(train=stated):
            spec = settle(stated, stated.model, data, plan.seed)
            start = find_start(spec.warm_start, plan.registered_name, connect()) if spec.warm_start else None
            future = train.submit(spec, data, plan.seed, start)
        case LoadBaseline(load=place):
            future = load.submit(find_baseline(place, connect()), data)
    made = future.result()
    deployed = export(made, data)
    quality = evaluate(deployed, deployed, data, "validation")
    return Baseline(made, deployed, quality, cached=future.state.name == "Cached")


def describe_move(plan_name: str, model: Digest, data: Digest) -> str | None:
    """Say how this run's baseline differs from the pinned one; None if it does not, or nothing is pinned."""
    pinned = read_pin(pin_path(plan_name))
    if pinned is None or (pinned.torch_model == model and pinned.dataset == data):
        return None
    accuracy = ", ".join(f"{name} {value:.4f}" for name, value in pinned.baseline.evaluation.metrics.items())
    moved = [] if pinned.torch_model == model else [f"model {pinned.torch_model[:12]} -> {model[:12]}"]
    moved += [] if pinned.dataset == data else [f"data {pinned.dataset[:12]} -> {data[:12]}"]
    return f"the baseline has moved since it was pinned: {', '.join(moved)} (pinned: {accuracy})"


def keep_baseline(dossier: RunDossier, *, pin: bool) -> None:
    """Append the baseline's record to the store if it is new, and pin it in `baselines/` if asked to."""
    record = BaselineRecord(
        plan=dossier.record.plan.name,
        dataset=dossier.dataset.digest,
        torch_model=dossier.baseline_stage.model.digest,
        baseline=dossier.record.baseline,
        machine=dossier.machine.value_digest(),
    )
    record_document(connect().documents, f"baselines/{record.plan}", record.canonical_json())
    if pin:
        document = json.dumps(record.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
        write_atomically(pin_path(record.plan), document.encode())


def pin_path(plan_name: str) -> Path:
    """Return where the pinned baseline of a plan lies."""
    return connect().settings.baselines / f"{plan_name}.json"


def read_pin(path: Path) -> BaselineRecord | None:
    """Read a pinned baseline; None if there is none.

    Raises:
        UserError: the file is there and is not a baseline record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return BaselineRecord.model_validate_json(text)
    except ValueError as error:
        raise UserError(
            f"{path} is not a baseline record ({error}); pin it anew with `stillhouse run --pin-baseline`"
        ) from error
