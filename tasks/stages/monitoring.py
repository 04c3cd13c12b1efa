"""The work of monitoring: judge a window, count it among the others, tell what became an alarm.

The alarms' state is a versioned document that is changed by compare-and-set, and windows lie on a fixed grid, so that
two monitors, a repetition or a crash at any point neither raise an alarm twice nor lose one.
"""

from datetime import UTC, datetime, timedelta

from tasks.adapters.route_store import RouteStore
from tasks.adapters.traffic_window import read_window
from tasks.contracts.data import Task
from tasks.contracts.errors import DocumentConflictError, ModelError
from tasks.contracts.monitoring import AlarmState, Episode, MonitoringRecord, WindowReport
from tasks.contracts.verdict import LedgerEntry
from tasks.decisions.alarms import count_window
from tasks.decisions.monitoring import judge_window, report_window
from tasks.decisions.monitoring_policy import MonitoringPolicy
from tasks.decisions.window import Window
from tasks.runtime.documents import record_document
from tasks.runtime.services import Services
from tasks.stages.announcing import announce_ledger, send_unsent
from tasks.stages.referencing import content_reference, load_rows, load_service, rebase_content, service_reference

_SETTLED_AFTER = timedelta(minutes=1)
"""A window is read so long after its end: gateways write their rows within seconds."""


def monitor(
    services: Services, model_name: str, window_minutes: float, policy: MonitoringPolicy, now: datetime
) -> MonitoringRecord:
    """Judge the last whole window and act on it, once however often it is called.

    Raises:
        ModelError: the model has no champion or no route.
        InfrastructureError: the store or the log cannot be read.
    """
    since, until = last_window(window_minutes, now)
    report = judge(services, model_name, since, until, policy, now)
    day = until.strftime("%Y-%m-%d")
    record_document(services.documents, f"monitoring/{model_name}/reports/{day}", report.canonical_json())
    state, raised = _count(services, report, policy)
    state = _send(services, state, _text(now))
    announce_ledger(services, model_name, _text(now))
    return MonitoringRecord(report=report, state=state, raised=raised)


def judge(
    services: Services, model_name: str, since: datetime, until: datetime, policy: MonitoringPolicy, now: datetime
) -> WindowReport:
    """Compare [since, until) of the champion's traffic with what is normal for it. Raises: see `monitor`."""
    champion, task = _served(services, model_name)
    content = content_reference(services, champion, task, policy, now)
    service = service_reference(services, champion, task, policy, now)
    window = _window(services, champion, task, since, until, policy)
    checks = judge_window(
        window,
        load_rows(services, content.rows, task) if content else None,
        load_rows(services, content.labelled, task) if content else None,
        load_service(services, service),
        policy,
    )
    return report_window(
        window,
        checks,
        model_name=model_name,
        model_digest=champion.candidate,
        version=champion.version,
        since=_text(since),
        until=_text(until),
        content_reference=content.value_digest() if content else None,
        service_reference=service.value_digest() if service else None,
    )


def rebase(
    services: Services, model_name: str, since: datetime, until: datetime, policy: MonitoringPolicy, now: datetime
) -> int:
    """Take the traffic of [since, until) as normal from now on; return its rows.

    Raises:
        ModelError: there is too little traffic in that time, or see `monitor`.
    """
    champion, task = _served(services, model_name)
    window = _window(services, champion, task, since, until, policy)
    if len(window.rows) < policy.min_rows:
        raise ModelError(
            f"{len(window.rows)} independent rows of {model_name} between {_text(since)} and {_text(until)}; "
            f"{policy.min_rows} are needed to say what is normal. Choose a longer time"
        )
    known = content_reference(services, champion, task, policy, now)
    return rebase_content(services, champion, task, policy, since, until, known).num_rows


def _window(
    services: Services, champion: LedgerEntry, task: Task, since: datetime, until: datetime, policy: MonitoringPolicy
) -> Window:
    root = services.traffic.folder(champion.model_name, since - timedelta(hours=policy.label_hours))
    return read_window(root, champion.model_name, champion.candidate, task, since, until, policy)


def last_window(window_minutes: float, now: datetime) -> tuple[datetime, datetime]:
    """Return the last whole window of the grid that begins at midnight of 1970, and is settled."""
    length = timedelta(minutes=window_minutes)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    until = epoch + ((now - _SETTLED_AFTER - epoch) // length) * length
    return until - length, until


def alarm_state(services: Services, model_name: str) -> AlarmState | None:
    """Return where the model's alarms stand; None before the first window."""
    latest = services.documents.latest(_state_name(model_name))
    return AlarmState.model_validate_json(latest.data) if latest else None


def _count(
    services: Services, report: WindowReport, policy: MonitoringPolicy
) -> tuple[AlarmState, tuple[Episode, ...]]:
    name = _state_name(report.model_name)
    while True:
        latest = services.documents.latest(name)
        state = AlarmState.model_validate_json(latest.data) if latest else None
        moved, raised = count_window(state, report, policy)
        if moved == state:
            return moved, ()
        try:
            services.documents.append(name, moved.canonical_json(), latest.version if latest else 0)
        except DocumentConflictError:
            continue  # another monitor counted a window between the read and the write
        return moved, raised


def _send(services: Services, state: AlarmState, now: str) -> AlarmState:
    """Send the alarms' events, and note which are out; those that wait are sent by a later call."""
    if not state.unsent:
        return state
    waiting = {one.event_id for one in send_unsent(services.events, state.unsent, now)}
    done = {one.event_id for one in state.unsent} - waiting
    while done:
        latest = services.documents.latest(_state_name(state.model_name))
        assert latest is not None, "the state was counted before its events are sent"
        newest = AlarmState.model_validate_json(latest.data)
        left = tuple(one for one in newest.unsent if one.event_id not in done)
        state = newest.model_copy(update={"unsent": left})
        if state == newest:
            break
        try:
            services.documents.append(_state_name(state.model_name), state.canonical_json(), latest.version)
        except DocumentConflictError:
            continue
        break
    return state


def _served(services: Services, model_name: str) -> tuple[LedgerEntry, Task]:
    champion = services.ledger.champion(model_name)
    route = RouteStore(services.documents, services.acknowledgements).current(model_name)
    if champion is None or route is None:
        missing = "champion" if champion is None else "route"
        raise ModelError(
            f"model {model_name} has no {missing}, so nothing of it is served; `stillhouse model ls` lists the models, "
            "and `stillhouse model reconcile` publishes a champion's route"
        )
    return champion, route.route.signature.task


def _state_name(model_name: str) -> str:
    return f"monitoring/{model_name}/alarms"


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
