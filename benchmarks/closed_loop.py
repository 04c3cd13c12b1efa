"""The whole loop on real drift, by the product's own parts; the benchmark only sends traffic and looks on.

`stillhouse up` serves the champion and runs Prefect. `prefect.yaml` is deployed: its schedule has `monitor-model` judge
windows of traffic, its automation answers an alarm's event with `retrain-model`, which a process worker runs to the
promotion of a new champion.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from benchmarks.drift_cases import DriftCase, digits_case
from benchmarks.loop_site import PLAN, Site, deployed, engines, make_project
from benchmarks.result import Figure, Findings, figure
from flows.plan import load_plan
from tasks.adapters.replay import replay
from tasks.adapters.route_store import RouteStore
from tasks.contracts.monitoring import ALARM_EVENTS, Announcement
from tasks.contracts.run import RunDossier
from tasks.decisions.alarms import announcement_id
from tasks.evaluation.predictions import predict
from tasks.runtime.services import connect
from tasks.stages.monitoring import alarm_state
from tasks.stages.retraining import read_record
from tasks.techniques.technique import Arrays

_SEED = 0
_WINDOW_MINUTES = 1
_LOOK_EVERY_S = 30
_DRIFTED_WINDOWS = 2
"""As many as make an alarm by default."""
_ALARMS = (ALARM_EVENTS["drift"], ALARM_EVENTS["accuracy"])
_RETRAIN = "retrain"
_ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_SOON_S, _LONG_S = 240.0, 900.0


def measure() -> Findings:
    """Go once round the loop."""
    case = digits_case(_SEED)
    project = make_project(
        {
            "parameters": {"model_name": case.name, "window_minutes": _WINDOW_MINUTES},
            "schedules": [{"interval": _LOOK_EVERY_S, "active": True}],
        }
    )
    case.write_base(project)
    (project / PLAN).write_text(yaml.safe_dump(case.plan), encoding="utf-8")
    with engines(project) as site:
        figures = _first_champion(case)
        with deployed(project):
            figures += _loop(case, site)
    return Findings(
        question="How long does it take from drift to a promoted model, and what does that model know?",
        setup=(
            f"{case.told} Clients send rows as scanned for one minute, without labels, then the drifted ones for "
            f"{_DRIFTED_WINDOWS}, each with its label as feedback; the gateway samples every input. From there on nobody "
            f"calls anything: `prefect.yaml` as it is, but for windows of {_WINDOW_MINUTES} minute looked at every "
            f"{_LOOK_EVERY_S} s, is deployed on a Prefect server with one process worker. Monitoring sends the event, the "
            "automation starts the retraining (data version, warm-started teacher, student in int8, gate against "
            "teacher and champion), its rollout goes over the gateway that serves, on the plan's own replayed traffic. "
            "Two more alarms are sent by us, one during the retraining and one after it. One run, all on one machine."
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
    run = _retrained(case, site)
    last = _champion(case)
    if last == first:
        raise ValueError(f"the retraining run ended without a new champion: {run['state']['message']}")
    _wait_until_served(case)
    after = _sent(case, case.held_out, 1, feedback=False)
    happened = _happened(case, site, run, drift_began, drift_ended)
    counts = _counts(case, site, first)
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
        *counts,
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


def _retrained(case: DriftCase, site: Site) -> dict[str, Any]:
    """Wait for the retraining that an alarm started, disturb it by another alarm, and return it when it has ended.

    Raises:
        ValueError: none started, or it failed.
    """

    def started() -> list[dict[str, Any]]:
        return [run for run in site.runs(_RETRAIN) if run["start_time"]]

    _until(started, _SOON_S, f"no retraining runs; the alarms are {alarm_state(connect(), case.name)}")
    _send_alarm(case, "an alarm during the retraining")

    def ended() -> list[dict[str, Any]]:
        runs = site.runs(_RETRAIN)
        return runs if len(runs) > 1 and all(run["state_type"] in _ENDED for run in runs) else []

    runs = _until(ended, _LONG_S, "the retraining does not end")
    completed = [run for run in runs if run["state_type"] == "COMPLETED"]
    if len(completed) != 1:
        raise ValueError(f"{len(completed)} retrainings completed: {[run['state']['message'] for run in runs]}")
    return dict(completed[0])


def _send_alarm(case: DriftCase, reason: str) -> None:
    """Send an event as monitoring does, of an episode of our own."""
    now = datetime.now(UTC).isoformat()
    alarm = Announcement(
        event_id=announcement_id(case.name, reason, now),
        event=ALARM_EVENTS["drift"],
        subject=f"model.{case.name}",
        occurred=now,
        payload={"model_name": case.name, "reason": reason},
    )
    if not connect().events.send([alarm]):
        raise ValueError("no Prefect server is addressed")


def _counts(case: DriftCase, site: Site, first: str) -> list[Figure]:
    """Send one more alarm, and count what all of them scheduled and what became of it.

    Raises:
        ValueError: more than one retraining was done.
    """
    known = len(site.runs(_RETRAIN))
    _send_alarm(case, "an alarm after the retraining")

    def dealt_with() -> list[dict[str, Any]]:
        runs = site.runs(_RETRAIN)
        return runs if len(runs) > known and all(run["state_type"] in _ENDED for run in runs) else []

    runs = _until(dealt_with, _SOON_S, "an alarm scheduled nothing, or its run does not end")
    refused = [run for run in runs if "cooldown_hours" in str(run["state"]["message"])]
    cancelled = [run for run in runs if run["state_type"] == "CANCELLED"]
    entries = read_record(connect(), case.name).entries
    if len(entries) != 1 or len(refused) + len(cancelled) != len(runs) - 1:
        raise ValueError(f"{len(entries)} retrainings: {[(run['state_type'], run['state']['message']) for run in runs]}")
    counted = {
        "alarms sent, ours included": len(site.events(*_ALARMS)),
        "runs that the automation scheduled": len(runs),
        "cancelled, since one ran": len(cancelled),
        "refused, since one had just been": len(refused),
        "retrainings": len(entries),
        "promotions since the first champion": sum(
            one.candidate != first and one.action == "promote" for one in connect().ledger.history(case.name)
        ),
    }
    return [figure(name, "", [count], subject=case.name) for name, count in counted.items()]


def _happened(
    case: DriftCase, site: Site, run: dict[str, Any], drift_began: datetime, drift_ended: datetime
) -> _Round:
    """Gather the moments.

    Raises:
        ValueError: the alarm is about a window without a drifted row.
    """
    from flows.dossiers import list_dossiers

    champion = connect().ledger.champion(case.name)
    assert champion is not None, "one was promoted"
    alarm = site.events(*_ALARMS)[0]
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
    routes = RouteStore(services.documents, services.settings.store_root)
    newest = routes.current(case.name)
    assert newest is not None, "a champion has a route"
    if reason := routes.wait_until_served(case.name, newest.version, timeout_s=60.0):
        raise ValueError(reason)


def _wait_for_window() -> None:
    """Wait until a window begins."""
    length = timedelta(minutes=_WINDOW_MINUTES)
    time.sleep((length - (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) % length).total_seconds())


def _until(found: Callable[[], list[dict[str, Any]]], seconds: float, otherwise: str) -> list[dict[str, Any]]:
    """Ask once a second until something is found.

    Raises:
        ValueError: nothing was, in time.
    """
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise ValueError(f"{otherwise} (waited {seconds:.0f} s)")
        time.sleep(1.0)
    return answer


def _minutes(case: DriftCase, leg: str, seconds: float) -> Figure:
    return figure(leg, "min", [max(0.0, seconds) / 60], subject=case.name)


def _quality(case: DriftCase, name: str, value: float) -> Figure:
    return figure(f"accuracy {name}", "%", [100 * value], subject=case.name)
