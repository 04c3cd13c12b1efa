"""The work of following what serves back to what it was made from, checking every digest on the way."""

from collections.abc import Callable, Iterator

from pydantic import ValidationError

from tasks.adapters.route_store import RouteStore
from tasks.adapters.traffic import LoggedAnswer, TrafficLog
from tasks.contracts.errors import InfrastructureError, ModelError, UserError
from tasks.contracts.lineage import Link
from tasks.contracts.registration import CARD_TAG, DIGEST_TAG, RUN_TAG
from tasks.contracts.run import CandidateDossier, RunDossier
from tasks.contracts.value import Digest
from tasks.contracts.verdict import GateReport
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.services import Services
from tasks.stages.rollout_record import GATE_REPORT_TAG
from tasks.stages.signing import signature_verdict
from tasks.stages.tracing_run import absent, trace_run, trace_tags, tracking_fact

_RUNS = "runs/"


def trace(services: Services, digest: Digest, registered: RegisteredVersion | None = None) -> Link:
    """Follow a model back to its data.

    Args:
        services: What is outside.
        digest: Of the deployable model.
        registered: The version that it is; None looks for one in the registry.
    """
    found = registered or _version_of(services, digest)
    if found is None:
        return _unregistered(services, digest)
    links = [
        Link(kind="model", name=digest, missing=absent(services, digest)),
        *_signature(services, found.name, digest),
    ]
    links += _ledger(services, found.name, digest)
    links += _current_route(services, found.name, digest)
    report = found.tags.get(GATE_REPORT_TAG)
    if report is not None:
        links.append(_gate_report(services, report, digest))
    if (card := found.tags.get(CARD_TAG)) is not None:
        links.append(Link(kind="model card", name=card, missing=absent(services, card)))
    links.append(_run(services, found, digest))
    return Link(
        kind="version",
        name=f"{found.name}/{found.version}",
        facts={"aliases": ", ".join(found.aliases) or "none"},
        rests_on=tuple(links),
    )


def trace_flow_run(services: Services, run_id: str) -> Link:
    """Follow a flow run to all that came of it: the versions that it registered, and what each rests on.

    Args:
        services: What is outside.
        run_id: Of the flow run in Prefect, or of its run, or a stage's run, in MLflow.

    Raises:
        UserError: neither the store nor MLflow knows it.
    """
    dossier = _dossier(services, run_id)
    if dossier is None:
        flow_run_id = services.tracker.flow_run_of(run_id)
        dossier = _dossier(services, flow_run_id) if flow_run_id else None
        if dossier is None:
            known = f"MLflow names flow run {flow_run_id}, of which" if flow_run_id else "MLflow has no such run, and"
            raise UserError(f"run {run_id}: {known} the store {services.settings.store_address} holds no record")
    record = dossier.record
    model_name = str(dossier.plan_document["model_name"] or dossier.plan_document["name"])
    made = [one for one in services.registry.versions(model_name) if one.tags.get(RUN_TAG) == record.run_id]
    links = [trace(services, one.tags[DIGEST_TAG], one) for one in made]
    facts = {"plan": record.plan.name, "chosen": record.chosen or "none"} | tracking_fact(dossier.lineage)
    return Link(
        kind="run",
        name=record.run_id,
        facts=facts,
        rests_on=tuple(links) or (trace_run(services, dossier, record.chosen),),
    )


def trace_request(services: Services, request_id: str) -> Link:
    """Follow a served request back to the data of every model that answered it, unseen answers included.

    Raises:
        UserError: no log below STILLHOUSE_TRAFFIC holds the request.
        InfrastructureError: a log segment cannot be read.
    """
    answers = TrafficLog(services.traffic.folder()).answers_to(request_id)
    if not answers:
        raise UserError(
            f"no prediction log below {services.traffic.place} (STILLHOUSE_TRAFFIC or STILLHOUSE_TRAFFIC_URL) "
            f"holds request {request_id!r}; "
            "a gateway writes its log every few seconds, and a request that names a version is not logged"
        )
    links = tuple(_answer(services, answer) for answer in answers)
    return Link(kind="request", name=request_id, facts={"model": answers[0].model_name}, rests_on=links)


def _answer(services: Services, answer: LoggedAnswer) -> Link:
    facts = {
        "at": answer.at,
        "arm": answer.arm,
        "served by": answer.served_by,
        "rows": str(answer.num_rows),
        "seen by the caller": "no, in shadow" if answer.shadow else "yes",
    }
    facts |= {"rollout": answer.rollout_id} if answer.rollout_id else {}
    facts |= {"error": answer.error} if answer.error else {}
    try:
        registered = services.registry.version(answer.model_name, answer.model_version)
        model = trace(services, answer.model_digest, registered)
    except ModelError as error:
        model = Link(kind="version", name=f"{answer.model_name}/{answer.model_version}", missing=str(error))
    else:
        if registered.tags.get(DIGEST_TAG) != answer.model_digest:
            said = f"the gateway served {answer.model_digest}, the registry says {registered.tags.get(DIGEST_TAG)}"
            model = model.model_copy(update={"missing": said})
    links = (_route(services, answer), model)
    return Link(kind="answer", name=f"{answer.arm} of {answer.model_name}", facts=facts, rests_on=links)


def _route(services: Services, answer: LoggedAnswer) -> Link:
    current = RouteStore(services.documents, services.acknowledgements).current(answer.model_name)
    newest = current.version if current else 0
    missing = "" if newest >= answer.route_version else f"the store's newest route of the model is version {newest}"
    name = f"{answer.model_name} version {answer.route_version}"
    return Link(kind="route", name=name, facts={"newest": str(newest)}, missing=missing)


def _version_of(services: Services, digest: Digest) -> RegisteredVersion | None:
    registry = services.registry
    found = (registry.find_version(name, digest) for name in registry.names())
    return next((version for version in found if version is not None), None)


def _signature(services: Services, name: str, digest: Digest) -> Iterator[Link]:
    verdict = signature_verdict(services, name, digest)
    if verdict is not None:
        yield Link(kind="signature", name=str(verdict.state), missing="" if verdict.trusted else verdict.detail)


def _ledger(services: Services, name: str, digest: Digest) -> Iterator[Link]:
    for entry in services.ledger.history(name):
        if entry.candidate == digest:
            facts = {"model": name, "by": entry.actor, "at": entry.created_at, "reason": entry.reason}
            facts |= {"run": entry.run_id} if entry.run_id else {}
            yield Link(kind="ledger entry", name=f"{entry.sequence} ({entry.action})", facts=facts)


def _current_route(services: Services, name: str, digest: Digest) -> Iterator[Link]:
    """Name the route that sends requests to the model now, if one does."""
    current = RouteStore(services.documents, services.acknowledgements).current(name)
    if current is None:
        return
    arms = {"champion": current.route.champion, "challenger": current.route.challenger}
    for arm, served in arms.items():
        if served is not None and served.digest == digest:
            facts = {"arm": arm, "weight": f"{current.route.weight:g}"}
            facts |= {"run": served.run_id} if served.run_id else {}
            yield Link(kind="route", name=f"{name} version {current.version}", facts=facts)


def _unregistered(services: Services, digest: Digest) -> Link:
    """Follow a model that is no version, such as one of a stage on the way, by the run that made it."""
    dossier = _run_that_made(services, digest, _made)
    if dossier is None:
        unknown = "no version in the registry and no run names it, so nothing tells where it came from"
        return Link(kind="model", name=digest, missing=absent(services, digest) or unknown)
    candidates = (name for name, one in dossier.candidates.items() if _has_stage(one, digest))
    run = trace_run(services, dossier, next(candidates, None))
    return Link(kind="model", name=digest, missing=absent(services, digest), rests_on=(run,))


def _gate_report(services: Services, digest: Digest, candidate: Digest) -> Link:
    if missing := absent(services, digest):
        return Link(kind="gate report", name=digest, missing=missing)
    try:
        report = GateReport.model_validate_json(services.artifacts.get(digest))
    except ValidationError:
        return Link(kind="gate report", name=digest, missing="the artifact is not a gate report")
    wrong = "" if report.candidate == candidate else f"it is about another model, {report.candidate}"
    facts = {"verdict": str(report.verdict), "baseline": report.baseline, "at": report.created_at}
    return Link(kind="gate report", name=digest, facts=facts, missing=wrong)


def _run(services: Services, registered: RegisteredVersion, digest: Digest) -> Link:
    """Follow the run that made the version; where its record is gone, another that made the same, or the tags."""
    run_id, candidate = registered.tags.get(RUN_TAG), registered.tags.get("stillhouse.candidate")
    dossier = _dossier(services, run_id) if run_id else None
    if dossier is not None:
        return trace_run(services, dossier, candidate)
    dossier = _run_that_made(services, digest, _deployable)
    if dossier is None:
        return trace_tags(services, registered, run_id)
    link = trace_run(services, dossier, candidate)
    told = f"of run {run_id}, which registered the version, there is no record" if run_id else "the version names none"
    return link.model_copy(update={"facts": {"found by": f"the model's digest: {told}"} | link.facts})


def _dossier(services: Services, run_id: str) -> RunDossier | None:
    document = services.documents.latest(f"{_RUNS}{run_id}")
    if document is None:
        return None
    try:
        return RunDossier.model_validate_json(document.data)
    except ValidationError as error:
        raise InfrastructureError(
            f"document {_RUNS}{run_id} of the store is not the record of a run ({error.error_count()} faults); "
            "it is damaged, or of another version of Stillhouse"
        ) from error


def _run_that_made(
    services: Services, digest: Digest, made_by: Callable[[RunDossier], set[Digest]]
) -> RunDossier | None:
    """Find a run that made this very model: stages are deterministic, so that any of them tells the same."""
    for name in services.documents.names(_RUNS):
        dossier = _dossier(services, name.removeprefix(_RUNS))
        if dossier is not None and digest in made_by(dossier):
            return dossier
    return None


def _made(dossier: RunDossier) -> set[Digest]:
    stages = [dossier.baseline_stage, *(stage for one in dossier.candidates.values() for stage in one.stages)]
    return _deployable(dossier) | {stage.model.digest for stage in stages}


def _has_stage(candidate: CandidateDossier, digest: Digest) -> bool:
    return any(stage.model.digest == digest for stage in candidate.stages)


def _deployable(dossier: RunDossier) -> set[Digest]:
    record = dossier.record
    chains = {candidate.stages[-1].model.digest for candidate in record.candidates if candidate.stages}
    return {record.baseline.model.digest} | chains
