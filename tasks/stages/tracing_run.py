"""The part of a lineage that a run's record tells: plan, stages, baseline and data."""

import json
from collections.abc import Mapping

from tasks.contracts.data import SPLIT_NAMES, DatasetRef
from tasks.contracts.lineage import TRACKING_FACT, UNKNOWN, Link
from tasks.contracts.model import StageResult
from tasks.contracts.registration import TRACKING_TAG
from tasks.contracts.run import RunDossier
from tasks.contracts.value import Digest, sha256_hex
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.services import Services

_STAGE_TAG = "stillhouse.stage_digest."


def absent(services: Services, digest: Digest) -> str:
    """Say that the store does not hold an artifact whole; empty if it does."""
    return "" if services.artifacts.contains(digest) else "not in the store, or damaged there"


def trace_run(services: Services, dossier: RunDossier, candidate: str | None) -> Link:
    """Follow a run to its plan, the stages of one candidate (None: only the baseline's), and its data."""
    made = dossier.candidates[candidate].stages if candidate in dossier.candidates else ()
    baseline = Link(
        kind="baseline",
        name=dossier.record.baseline.model.digest,
        missing=absent(services, dossier.record.baseline.model.digest),
        rests_on=(_stage(services, dossier.baseline_stage),),
    )
    stages = tuple(_stage(services, stage) for stage in made)
    facts = {"started": dossier.started_at, "finished": dossier.finished_at}
    facts |= {name.removeprefix("stillhouse."): dossier.lineage[name] for name in _shown(dossier)}
    facts |= tracking_fact(dossier.lineage)
    links = (_plan(dossier), *stages, baseline, _data(services, dossier.dataset, dossier.record.dataset.digest))
    return Link(kind="run", name=dossier.record.run_id, facts=facts, rests_on=links)


def trace_tags(services: Services, registered: RegisteredVersion, run_id: str | None) -> Link:
    """Follow what a version's tags tell where the record of its run is gone."""
    tags = registered.tags
    stages = [tags[name] for name in sorted(tags, key=_position) if name.startswith(_STAGE_TAG)]
    links = [Link(kind="stage", name=digest, missing=absent(services, digest)) for digest in stages]
    for kind, tag in (("plan", "stillhouse.plan"), ("data", "stillhouse.data"), ("code", "stillhouse.code")):
        if tag in tags:
            links.append(Link(kind=kind, name=tags[tag], missing="its content was in the run's record"))
    if "stillhouse.data_revision" in tags:
        links.append(Link(kind="DVC revision", name=tags["stillhouse.data_revision"]))
    gone = "the store holds no record of it" if run_id else "the version does not name it, and no record names it"
    return Link(kind="run", name=run_id or UNKNOWN, facts=tracking_fact(tags), missing=gone, rests_on=tuple(links))


def tracking_fact(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the run's id in MLflow as a fact, if it was noted."""
    return {TRACKING_FACT: tags[TRACKING_TAG]} if TRACKING_TAG in tags else {}


def _plan(dossier: RunDossier) -> Link:
    """Check that the plan in the record is the one that the digest names."""
    document = json.dumps(dossier.plan_document, sort_keys=True, separators=(",", ":")).encode()
    named = dossier.record.plan
    missing = "" if sha256_hex(document) == named.digest else "the plan in the run's record has another digest"
    return Link(kind="plan", name=named.digest, facts={"name": named.name}, missing=missing)


def _stage(services: Services, stage: StageResult) -> Link:
    digest = stage.model.digest
    facts = {"kind": stage.kind, "format": stage.model.format, "key": stage.stage_key}
    return Link(kind="stage", name=digest, facts=facts, missing=absent(services, digest))


def _data(services: Services, data: DatasetRef, recorded: Digest) -> Link:
    splits = tuple(
        Link(
            kind="split",
            name=data.splits[name].digest,
            facts={"name": name, "rows": str(data.splits[name].num_rows)},
            missing=absent(services, data.splits[name].digest),
        )
        for name in SPLIT_NAMES
        if name in data.splits
    )
    missing = "" if data.digest == recorded else f"the data set in the run's record has the digest {data.digest}"
    revision = Link(kind="DVC revision", name=data.revision)
    return Link(kind="data", name=recorded, facts={"name": data.name}, missing=missing, rests_on=(*splits, revision))


def _shown(dossier: RunDossier) -> list[str]:
    return [name for name in ("stillhouse.version", "stillhouse.code", "stillhouse.commit") if name in dossier.lineage]


def _position(tag: str) -> tuple[int, str]:
    number = tag.removeprefix(_STAGE_TAG)
    return (int(number), "") if number.isdigit() else (-1, tag)
