"""The work of recording what is normal for a champion.

Inputs and answers: the validation split passed through the very model. It is there at the first request, has labels,
and is a function of model and split alone, so it can be made whenever it is first asked for and is the same each
time. Its size limits what monitoring can find, so whatever learning does not spoil comes from more rows: the inputs
from training and calibration rows too, and how often a class comes from the labels of all splits. What the model
answers to rows that it learned from is no measure of what it will answer to others, and stays out.

A version of unknown origin is compared with its first hours of traffic. Latency and errors: always the first
hours of traffic, since a split has no clients and no machine.
"""

import io
from dataclasses import fields, replace
from datetime import datetime, timedelta

import numpy as np

from tasks.adapters.traffic_window import read_window
from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.data import DatasetRef, Task
from tasks.contracts.monitoring import ContentReference, ServiceReference
from tasks.contracts.value import Digest
from tasks.contracts.verdict import LedgerEntry
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.window import Rows, Service, Window
from tasks.evaluation.predictions import predict
from tasks.runtime.documents import record_document
from tasks.runtime.services import Services
from tasks.stages.reference_rows import class_rows, learned_inputs, split_rows, with_more_inputs
from tasks.stages.splits import load_split

DATA_TAG = "stillhouse.data"
"""Tag of a registered version that names the data set of its run."""
_MAX_LATENCIES = 20_000
"""Latencies kept of a reference, drawn by lot: two hundred beyond its p99."""


def content_reference(
    services: Services, champion: LedgerEntry, task: Task, policy: MonitoringPolicy, now: datetime
) -> ContentReference | None:
    """Return the champion's normal inputs and answers, recorded now if they were not; None as long as there are none.

    Raises:
        ModelError: the model does not run on its validation split.
        InfrastructureError: the store or the log cannot be read.
    """
    name = _content_name(champion.model_name)
    latest = services.documents.latest(name)
    known = ContentReference.model_validate_json(latest.data) if latest else None
    if known is not None and known.model_digest == champion.candidate:
        return known
    data = _dataset(services, champion)
    if data is not None:
        made: ContentReference | None = _from_validation(services, champion, data, policy)
    else:
        made = _from_traffic(services, champion, task, policy, now)
    if made is not None:
        record_document(services.documents, name, made.canonical_json())
    return made


def rebase_content(
    services: Services,
    champion: LedgerEntry,
    task: Task,
    policy: MonitoringPolicy,
    since: datetime,
    until: datetime,
    known: ContentReference | None,
) -> ContentReference:
    """Take a window of traffic as the new normal of inputs and answers; labelled rows stay what they were."""
    window = _window(services, champion, task, policy, since, until)
    labelled = known.labelled if known is not None and known.model_digest == champion.candidate else None
    made = _traffic_reference(services, champion, window.rows, since, until, labelled)
    record_document(services.documents, _content_name(champion.model_name), made.canonical_json())
    return made


def service_reference(
    services: Services, champion: LedgerEntry, task: Task, policy: MonitoringPolicy, now: datetime
) -> ServiceReference | None:
    """Return how the champion was served at first, recorded now if it can be; None as long as traffic is too little.

    Its first hours after the promotion; if the log has too little of them, its last hours up to now.
    """
    name = f"monitoring/{champion.model_name}/service"
    latest = services.documents.latest(name)
    known = ServiceReference.model_validate_json(latest.data) if latest else None
    if known is not None and known.model_digest == champion.candidate:
        return known
    began, length = datetime.fromisoformat(champion.created_at), timedelta(hours=policy.reference_hours)
    if now < began + length:
        return None
    for since in (began, now - length):
        seen = _window(services, champion, task, policy, since, since + length).service
        if seen.requests >= policy.min_rows and seen.latencies_ms:
            made = _service_reference(services, champion, seen, since, since + length)
            record_document(services.documents, name, made.canonical_json())
            return made
    return None


def load_rows(services: Services, artifact: ArtifactRef | None, task: Task) -> Rows | None:
    """Return the rows of a reference."""
    if artifact is None:
        return None
    with np.load(io.BytesIO(services.artifacts.get(artifact.digest)), allow_pickle=False) as arrays:
        return Rows(task=task, **{name: arrays[name] for name in arrays.files})


def load_service(services: Services, reference: ServiceReference | None) -> Service | None:
    """Return the counts and latencies of a reference."""
    if reference is None:
        return None
    with np.load(io.BytesIO(services.artifacts.get(reference.latencies.digest)), allow_pickle=False) as arrays:
        latencies = arrays["latencies_ms"]
    return Service(reference.requests, reference.errors, reference.cached, {reference.batch_rows: latencies})


def _from_validation(
    services: Services, champion: LedgerEntry, data: DatasetRef, policy: MonitoringPolicy
) -> ContentReference:
    part = load_split(services.artifacts, data, "validation")
    outputs = predict(services.artifacts.get(champion.candidate), part.x, data.num_outputs)
    rows = split_rows(part.x, part.y, outputs, data.task)
    rows = with_more_inputs(rows, learned_inputs(services.artifacts, data), policy)
    if data.task == "classification":
        rows = replace(rows, data_classes=class_rows(data, part.y, policy))
    stored = _store(services, rows)
    return ContentReference(
        model_name=champion.model_name,
        model_digest=champion.candidate,
        version=champion.version,
        source="validation",
        task=data.task,
        dataset=data.digest,
        since=None,
        until=None,
        rows=stored,
        num_rows=len(rows),
        num_inputs=rows.num_inputs,
        labelled=stored if rows.right is not None else None,
    )


def _from_traffic(
    services: Services, champion: LedgerEntry, task: Task, policy: MonitoringPolicy, now: datetime
) -> ContentReference | None:
    since = datetime.fromisoformat(champion.created_at)
    until = since + timedelta(hours=policy.reference_hours)
    if now < until:
        return None
    rows = _window(services, champion, task, policy, since, until).rows
    if len(rows) < policy.min_rows:
        return None
    return _traffic_reference(services, champion, rows, since, until, None)


def _traffic_reference(
    services: Services,
    champion: LedgerEntry,
    rows: Rows,
    since: datetime,
    until: datetime,
    labelled: ArtifactRef | None,
) -> ContentReference:
    return ContentReference(
        model_name=champion.model_name,
        model_digest=champion.candidate,
        version=champion.version,
        source="traffic",
        task=rows.task,
        dataset=None,
        since=since.isoformat(timespec="seconds"),
        until=until.isoformat(timespec="seconds"),
        rows=_store(services, rows),
        num_rows=len(rows),
        labelled=labelled,
    )


def _service_reference(
    services: Services, champion: LedgerEntry, seen: Service, since: datetime, until: datetime
) -> ServiceReference:
    latencies = seen.latencies_ms[seen.usual_batch]
    if len(latencies) > _MAX_LATENCIES:
        latencies = np.random.default_rng(0).choice(latencies, _MAX_LATENCIES, replace=False)
    buffer = io.BytesIO()
    np.savez(buffer, latencies_ms=np.sort(latencies))
    return ServiceReference(
        model_name=champion.model_name,
        model_digest=champion.candidate,
        version=champion.version,
        since=since.isoformat(timespec="seconds"),
        until=until.isoformat(timespec="seconds"),
        latencies=services.artifacts.put(buffer.getvalue()),
        batch_rows=seen.usual_batch,
        requests=seen.requests,
        errors=seen.errors,
        cached=seen.cached,
    )


def _window(
    services: Services, champion: LedgerEntry, task: Task, policy: MonitoringPolicy, since: datetime, until: datetime
) -> Window:
    root = services.traffic.folder(champion.model_name, since - timedelta(hours=policy.label_hours))
    return read_window(root, champion.model_name, champion.candidate, task, since, until, policy)


def _dataset(services: Services, champion: LedgerEntry) -> DatasetRef | None:
    """Find the data set of the run that registered the version."""
    digest: Digest | None = services.registry.version(champion.model_name, champion.version).tags.get(DATA_TAG)
    for name in services.documents.names("datasets/") if digest else []:
        document = services.documents.latest(name)
        data = DatasetRef.model_validate_json(document.data) if document else None
        if data is not None and data.digest == digest:
            return data
    return None


def _store(services: Services, rows: Rows) -> ArtifactRef:
    arrays = {one.name: getattr(rows, one.name) for one in fields(rows) if one.name != "task"}
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
    return services.artifacts.put(buffer.getvalue())


def _content_name(model_name: str) -> str:
    return f"monitoring/{model_name}/content"
