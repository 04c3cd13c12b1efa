"""The whole loop on real drift, by the product's own parts; the benchmark only sends traffic and looks on.

`stillhouse up` serves the champion and runs Prefect. `prefect.yaml` is deployed, with a process worker: `monitor-model`
judges windows of traffic, and the automation answers an alarm's event with `retrain-model`, which ends with the
promotion of a new champion.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from benchmarks.drift_cases import DriftCase, digits_case
from benchmarks.loop_alarms import ALARMS, answered_alarm, refused_alarms
from benchmarks.loop_site import PLAN, Site, deployed, engines, make_project
from benchmarks.result import Figure, Findings, figure
from flows.plan import load_plan
from tasks.adapters.replay import replay
from tasks.adapters.route_store import RouteStore
from tasks.contracts.run import RunDossier
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.evaluation.predictions import predict
from tasks.runtime.services import connect
from tasks.stages.monitoring import judge
from tasks.techniques.technique import Arrays

_SEED = 0
_WINDOW_MINUTES = 1
_LOOK_EVERY_S = 30
_DRIFTED_WINDOWS = 2
"""As many as make an alarm by default."""


def measure() -> Findings:
    """Go once round the loop."""
    case = digits_case(_SEED)
    project = make_project({"parameters": {"model_name": case.name, "window_minutes": _WINDOW_MINUTES}})
    case.write_base(project)
    (project / PLAN).write_text(yaml.safe_dump(case.plan), encoding="utf-8")
    with engines(project) as site:
        figures = _first_champion(case)
        with deployed(project), site.starting("digits-monitor", _LOOK_EVERY_S):
            figures += _loop(case, site)
    return Findings(
        question="How long does it take from drift to a promoted model, and what does that model know?",
        setup=(
            f"{case.told} Clients send rows as scanned for one minute, without labels, then the drifted ones for "
            f"{_DRIFTED_WINDOWS}, each with its label as feedback; the gateway samples every input. `prefect.yaml` as "
            f"it is, but for windows of {_WINDOW_MINUTES} minute, is deployed on a Prefect server with one process "
            f"worker; we start its monitoring every {_LOOK_EVERY_S} s, in place of the schedule, and nothing else. "
            "Monitoring sends the event, the automation starts the retraining (data version, warm-started teacher, "
            "student in int8, gate against teacher and champion), its rollout goes over the gateway that serves, "
            "on the plan's own replayed traffic. Two more alarms are sent by us, one during the retraining "
            "and one after it. One run, all on one machine."
        ),
        seeds={"rows, training and traffic": _SEED},
        figures=tuple(figures),
    )


@dataclass(frozen=True)
class _Round:
    """What happened, and when."""

    drift_began: datetime
    drift_ended: datetime
    alarm: dict[str, Any]
    """The first event that monitoring sent."""
    run: dict[str, Any]
    """The flow run that retrained."""
    dossier: RunDossier
    promoted_at: datetime


def _first_champion(case: DriftCase) -> list[Figure]:
    from flows.delivery import deliver_model

    started = time.monotonic()
    _require_promoted(deliver_model(load_plan(connect().settings.project / PLAN)))
    return [_minutes(case, "first champion: train, compress, gate, roll out", time.monotonic() - started)]


def _loop(case: DriftCase, site: Site) -> list[Figure]:
    """Go once round, and return the minutes, the accuracies at the clients, and what was refused."""
    first = _champion(case)
    _wait_until_served(case)
    _wait_for_window()
    before = _sent(case, case.held_out_original, 1, feedback=False)
    drift_began = datetime.now(UTC)
    during = _sent(case, case.live, _DRIFTED_WINDOWS, feedback=True)
    drift_ended = datetime.now(UTC)
    run = answered_alarm(case.name, site)
    last = _champion(case)
    if last == first:
        raise ValueError(f"the retraining run ended without a new champion: {run['state']['message']}")
    _wait_until_served(case)
    _wait_for_window()
    after_began = datetime.now(UTC)
    after = _sent(case, case.held_out, 1, feedback=False)
    happened = _happened(case, site, run, drift_began, drift_ended)
    counts = refused_alarms(case.name, site)
    return [
        *_legs(case, happened),
        *(
            _quality(case, name, value)
            for name, value in (
                ("before: rows as scanned, at their clients", before),
                ("during: drifted rows, at their clients", during),
                ("after: other drifted rows, at their clients", after),
                ("first champion on those other drifted rows", _measured(first, case.held_out)),
                ("new champion on rows as scanned", _measured(last, case.held_out_original)),
            )
        ),
        *(figure(name, "", [count], subject=case.name) for name, count in counts.items()),
        _still_drifting(case, after_began, after_began + timedelta(minutes=_WINDOW_MINUTES)),
    ]


def _sent(case: DriftCase, rows: Arrays, windows: int, *, feedback: bool) -> float:
    """Send every row once, spread over so many windows; return the accuracy at the clients.

    Raises:
        ValueError: a request or a label failed.
    """
    seconds = 60.0 * _WINDOW_MINUTES * windows
    sent = replay(
        rows.x,
        rows.y,
        connect().settings.gateway_url,
        case.name,
        requests=len(rows.y),
        concurrency=2,
        seed=_SEED,
        feedback_share=float(feedback),
        rate=len(rows.y) / seconds,
    )
    if sent.failed or sent.feedback_failed:
        raise ValueError(f"{sent.failed} requests and {sent.feedback_failed} labels failed: {sent.failures}")
    accuracy = sent.arms["champion"].accuracy
    assert accuracy is not None, "the rows have classes"
    return accuracy


def _still_drifting(case: DriftCase, since: datetime, until: datetime) -> Figure:
    """Count the drift checks that the new champion's traffic fails against the data that it was made from."""
    report = judge(connect(), case.name, since, until, MonitoringPolicy(), until)
    failed = len(report.failed("drift"))
    return figure("drift checks that the drifted rows fail after it", "", [failed], subject=case.name)


def _happened(case: DriftCase, site: Site, run: dict[str, Any], drift_began: datetime, drift_ended: datetime) -> _Round:
    """Gather the moments.

    Raises:
        ValueError: the alarm is about a window without a drifted row.
    """
    from flows.dossiers import list_dossiers

    champion = connect().ledger.champion(case.name)
    assert champion is not None, "one was promoted"
    alarm = site.events(*ALARMS)[0]
    since = datetime.fromisoformat(alarm["payload"]["since"])
    if since + timedelta(minutes=_WINDOW_MINUTES) <= drift_began:
        raise ValueError(f"the alarm is a false one, before the drift of {drift_began}: {alarm['payload']['reason']}")
    return _Round(
        drift_began=drift_began,
        drift_ended=drift_ended,
        alarm=alarm,
        run=run,
        dossier=list_dossiers()[0],
        promoted_at=datetime.fromisoformat(champion.created_at),
    )


def _legs(case: DriftCase, happened: _Round) -> list[Figure]:
    """Divide the time from the first drifted request to the new champion."""
    received, scheduled, began = (
        datetime.fromisoformat(moment)
        for moment in (happened.alarm["received"], happened.run["created"], happened.run["start_time"])
    )
    trained_from, trained_to = map(datetime.fromisoformat, (happened.dossier.started_at, happened.dossier.finished_at))
    legs = {
        f"drifted traffic, {_DRIFTED_WINDOWS} windows": (happened.drift_began, happened.drift_ended),
        "end of those windows to the alarm's event": (happened.drift_ended, received),
        "event to the scheduled run": (received, scheduled),
        "scheduled run to its first line, in the worker": (scheduled, began),
        "retraining: publish the data version": (began, trained_from),
        "retraining: teacher, student, gate": (trained_from, trained_to),
        "retraining: register, roll out, promote": (trained_to, happened.promoted_at),
        "first drifted request to the new champion": (happened.drift_began, happened.promoted_at),
    }
    return [_minutes(case, name, (end - start).total_seconds()) for name, (start, end) in legs.items()]


def _champion(case: DriftCase) -> str:
    champion = connect().ledger.champion(case.name)
    assert champion is not None
    return champion.candidate


def _measured(model: str, rows: Arrays) -> float:
    """Return the accuracy."""
    outputs = predict(connect().artifacts.get(model), rows.x, int(rows.y.max()) + 1)
    return float((outputs.argmax(axis=1) == rows.y).mean())


def _require_promoted(dossier: RunDossier) -> None:
    rollout = dossier.record.rollout
    if rollout is None or rollout.verdict != "promote":
        gates = [(one.name, one.gate.model_dump(mode="json")) for one in dossier.record.candidates]
        failures = [one.failure for one in dossier.candidates.values()]
        raise ValueError(f"no champion: rollout {rollout}, gates {gates}, failures {failures}")


def _wait_until_served(case: DriftCase) -> None:
    """Wait until the gateway serves the newest route.

    Raises:
        ValueError: it does not.
    """
    services = connect()
    routes = RouteStore(services.documents, services.acknowledgements)
    newest = routes.current(case.name)
    assert newest is not None, "a champion has a route"
    if reason := routes.wait_until_served(case.name, newest.version, timeout_s=60.0):
        raise ValueError(reason)


def _wait_for_window() -> None:
    """Wait until a window begins."""
    length = timedelta(minutes=_WINDOW_MINUTES)
    time.sleep((length - (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) % length).total_seconds())


def _minutes(case: DriftCase, leg: str, seconds: float) -> Figure:
    return figure(leg, "min", [max(0.0, seconds) / 60], subject=case.name)


def _quality(case: DriftCase, name: str, value: float) -> Figure:
    return figure(f"accuracy {name}", "%", [100 * value], subject=case.name)
