"""From judged windows to alarms: k failures of the last n windows begin an episode, n windows without end it.

A window without an answer neither counts nor clears: silence is no recovery. While an episode runs, and for a
cooldown after it, its kind raises nothing new. A window that overlaps one that was counted is not counted again, so
looking twice, late or from two places changes nothing.
"""

import uuid
from datetime import datetime, timedelta

from tasks.contracts.monitoring import (
    ALARM_EVENTS,
    ALARM_KINDS,
    AlarmState,
    Announcement,
    CheckKind,
    Episode,
    WindowCheck,
    WindowReport,
    WindowVerdict,
)
from tasks.contracts.verdict import Verdict
from tasks.decisions.monitoring_policy import MonitoringPolicy

_NAMESPACE = uuid.UUID("6f0f5a0e-6c53-5d43-9d0b-8a5a3f2c7e10")


def count_window(
    state: AlarmState | None, report: WindowReport, policy: MonitoringPolicy
) -> tuple[AlarmState, tuple[Episode, ...]]:
    """Return the alarms after a window, and the episodes that began with it.

    Args:
        state: after the window before; None for a model that was never judged.
        report: the window.
        policy: how many windows make an alarm.
    """
    if state is None or state.model_digest != report.model_digest:
        state = AlarmState(
            model_name=report.model_name,
            model_digest=report.model_digest,
            judged_until="",
            unsent=state.unsent if state else (),
        )
    if state.judged_until and _moment(report.since) < _moment(state.judged_until):
        return state, ()
    recent, episodes = dict(state.recent), dict(state.episodes)
    raised = []
    for kind in ALARM_KINDS:
        if report.verdict_of(kind) is Verdict.INCONCLUSIVE:
            continue
        recent[kind] = (*recent.get(kind, ()), _verdict(kind, report))[-policy.of_windows :]
        episode = _next_episode(kind, episodes.get(kind), recent[kind], report, policy)
        if episode is None:
            continue
        if kind not in episodes or episodes[kind].episode_id != episode.episode_id:
            raised.append(episode)
        episodes[kind] = episode
    announced = tuple(announce_episode(episode, report) for episode in raised)
    moved = state.model_copy(
        update={
            "judged_until": report.until,
            "recent": recent,
            "episodes": episodes,
            "unsent": (*state.unsent, *announced),
        }
    )
    return moved, tuple(raised)


def announce_episode(episode: Episode, report: WindowReport) -> Announcement:
    """Make the event of an alarm: what changed, how much, since when."""
    return Announcement(
        event_id=episode.episode_id,
        event=ALARM_EVENTS[episode.kind],
        subject=f"model.{report.model_name}",
        occurred=episode.raised_at,
        payload={
            "model_name": report.model_name,
            "version": report.version,
            "model_digest": report.model_digest,
            "since": episode.since,
            "until": report.until,
            "reason": episode.summary,
            "episode": episode.episode_id,
            "checks": [_figures(check) for check in report.failed(episode.kind)],
        },
    )


def announcement_id(*parts: str) -> str:
    """Return the id of the event about the thing that `parts` name: always the same."""
    return str(uuid.uuid5(_NAMESPACE, "\x00".join(parts)))


def _next_episode(
    kind: CheckKind,
    newest: Episode | None,
    recent: tuple[WindowVerdict, ...],
    report: WindowReport,
    policy: MonitoringPolicy,
) -> Episode | None:
    failed = [window for window in recent if window.failed]
    if newest is not None and newest.ended_at is None:
        if len(recent) == policy.of_windows and not failed:
            return newest.model_copy(update={"ended_at": report.until})
        return newest.model_copy(update={"windows": newest.windows + bool(recent[-1].failed)})
    if len(failed) < policy.failing_windows or not recent[-1].failed:
        return newest
    if newest is not None and newest.ended_at is not None:
        rested = _moment(newest.ended_at) + timedelta(hours=policy.cooldown_hours)
        if _moment(report.until) < rested:
            return newest
    return Episode(
        episode_id=announcement_id(report.model_name, report.model_digest, kind, failed[0].since),
        kind=kind,
        since=failed[0].since,
        raised_at=report.until,
        checks=recent[-1].failed,
        summary=_summary(kind, failed[0].since, report),
        windows=len(failed),
    )


def _verdict(kind: CheckKind, report: WindowReport) -> WindowVerdict:
    return WindowVerdict(
        since=report.since, until=report.until, failed=tuple(check.name for check in report.failed(kind))
    )


def _summary(kind: CheckKind, since: str, report: WindowReport) -> str:
    failed = report.failed(kind)
    worst = "; ".join(f"{check.name}: {check.detail}" for check in failed[:3])
    more = f"; and {len(failed) - 3} more checks" if len(failed) > 3 else ""
    return f"{kind} of {report.model_name} version {report.version} since {since}: {worst}{more}"


def _figures(check: WindowCheck) -> dict[str, str | float | None]:
    return {
        "name": check.name,
        "estimate": check.estimate,
        "reference": check.reference,
        "limit": check.limit,
        "p_value": check.p_value,
        "detail": check.detail,
    }


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
