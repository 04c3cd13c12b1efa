"""The work of a rollout: every step is written to the ledger before it is acted on, so any process can go on.

The order within a tick makes a crash at any point harmless: the route follows the last recorded state
(publishing the same route again changes nothing), traffic is observed, the state machine decides, the
decision is appended under its tick number (a second ticker loses), and only then the route moves.

A rollout compares two versions. When another champion comes meanwhile (a promotion by hand), the comparison
is void: the route is left to the new champion, and the next tick ends the rollout.
"""

import uuid
from dataclasses import replace
from datetime import datetime

from tasks.adapters.route_store import RouteStore, VersionedRoute
from tasks.adapters.traffic import TrafficLog
from tasks.contracts.errors import DocumentConflictError, GateError, ModelError, UserError
from tasks.contracts.registration import CHALLENGER_ALIAS, DIGEST_TAG, RUN_TAG
from tasks.contracts.retraining import REASON_TAG
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.contracts.value import Digest, Slug
from tasks.contracts.verdict import LedgerEntry
from tasks.decisions import rollout
from tasks.decisions.experiment import Observation
from tasks.decisions.rollout import RolloutPolicy, RolloutState
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.services import Services
from tasks.stages.announcing import announce_ledger
from tasks.stages.promoting import promote
from tasks.stages.reconciling import reconcile
from tasks.stages.rollout_record import GATE_REPORT_TAG, RolloutRecord, append_record, latest_record, was_promoted


def begin_rollout(
    services: Services, model_name: Slug, policy: RolloutPolicy, now: str, *, again: bool = False
) -> RolloutRecord:
    """Return the running rollout of the model's challenger, or begin one.

    A challenger that was rolled back against the same champion is not tried again unless `again` is True:
    its finished record is returned. `again` also finds it when the roll-back took its alias away. Without a
    challenger, the last rollout's record is returned as long as the champion is the one that it left.

    Raises:
        ModelError: the model has no champion, no challenger, or the challenger lacks its gate report.
        GateError: the challenger's gate report made it champion before, and that was undone.
        UserError: another version's rollout is running; it has to end first.
    """
    with services.locks.hold(f"rollout/{model_name}"):
        champion = services.ledger.champion(model_name)
        challenger = services.registry.version_of(model_name, CHALLENGER_ALIAS)
        latest = latest_record(services, model_name)
        if latest is not None and not latest.state.finished:
            return _same_challenger(latest, challenger)
        if latest is not None and not is_settled(services, latest):
            # its process died between deciding and acting
            if challenger is None or _is_of(latest, challenger):
                return latest  # the caller settles it
            settle(services, latest, "begin-rollout", now)
            champion = services.ledger.champion(model_name)
        if champion is not None:
            reconcile(services, model_name)
            challenger = services.registry.version_of(model_name, CHALLENGER_ALIAS)
        if challenger is None and again and latest is not None and latest.state.status != "promoted":
            challenger = services.registry.version(model_name, latest.state.challenger.version)
            services.registry.set_alias(model_name, CHALLENGER_ALIAS, challenger.version)
        if latest is not None and champion is not None and challenger is None and _still_holds(latest.state, champion):
            return latest
        if champion is None or challenger is None:
            missing = "champion" if champion is None else "challenger"
            raise ModelError(f"model {model_name} has no {missing}; `stillhouse run PLAN` registers one")
        own = Arm(digest=champion.candidate, version=champion.version, run_id=champion.run_id or "")
        arms = own, _arm(challenger)
        if latest is not None and not again and _was_refused(latest.state, *arms):
            return latest
        record = RolloutRecord(
            state=rollout.start(uuid.uuid4().hex, model_name, *arms, policy, now),
            gate_report=_unused_evidence(services, challenger),
            weights={},
        )
        append_record(services, record)
        return record


def follow_state(services: Services, record: RolloutRecord) -> RolloutRecord:
    """Make the route what the rollout's newest recorded state asks for, and note its version. Does nothing twice.

    `record` may be older: an abort or another ticker came between. A finished rollout is left to `settle`.
    """
    model_name = record.state.model_name
    routes = RouteStore(services.documents, services.acknowledgements)
    with services.locks.hold(_route_lock(model_name)):
        newest = latest_record(services, model_name) or record
        current = routes.current(model_name)
        if _is_superseded(services, newest):
            reconcile(services, model_name)
            current = routes.current(model_name)
        elif not newest.state.finished:
            current = _publish(routes, newest, current)
    if current is None:
        raise ModelError(_no_route(newest))
    return newest.model_copy(update={"weights": newest.weights | {str(current.version): current.route.weight}})


def observe(services: Services, log: TrafficLog, record: RolloutRecord) -> Observation:
    """Count the rollout's traffic so far, and say whether every live gateway serves its newest route.

    A row counts under the weight of the route version that it was answered under, so a gateway that is behind
    puts no row to the wrong weight; but the step has not truly begun while there is one.
    """
    routes = RouteStore(services.documents, services.acknowledgements)
    model_name = record.state.model_name
    current = routes.current(model_name)
    assert current is not None, "the route was published before traffic is observed"
    services.traffic.folder(model_name, datetime.fromisoformat(record.state.created_at))  # brings here what is new
    seen = log.observe(
        model_name,
        record.state.rollout_id,
        {int(version): weight for version, weight in record.weights.items()},
        task=current.route.signature.task,
        correct_within=record.state.policy.correct_within,
    )
    return replace(seen, unserved=routes.why_unserved(model_name, current.version))


def advance(services: Services, record: RolloutRecord, observation: Observation, now: str) -> RolloutRecord:
    """Let the state machine decide and append the outcome to the ledger.

    When another process recorded this tick first (a second ticker, an abort), its record counts. When another
    champion came since the rollout began, it is aborted, whatever was observed.
    """
    if not record.state.finished and _is_superseded(services, record):
        state = rollout.abort(record.state, "another version became champion meanwhile", now)
    else:
        state, _ = rollout.tick(record.state, observation, record.state.policy, now)
    moved = record.model_copy(update={"state": state})
    try:
        append_record(services, moved)
    except DocumentConflictError:
        recorded = latest_record(services, state.model_name)
        assert recorded is not None, "a tick that conflicts is there"
        return recorded
    return moved


def settle(services: Services, record: RolloutRecord, actor: str, now: str) -> None:
    """Act on a finished rollout, once: promote the challenger, or take it off the route and its alias away.

    What counts is how the rollout is recorded by now: it may have been aborted since `record` was read.
    """
    assert record.state.finished, "only a finished rollout is settled"
    model_name = record.state.model_name
    with services.locks.hold(settlement_lock(model_name)):
        newest = latest_record(services, model_name)
        if newest is not None and newest.state.rollout_id == record.state.rollout_id:
            record = newest
        if is_settled(services, record):
            if record.state.status != "promoted" and not record.weights:
                _take_alias(services, record.state)  # it never had a route that could tell that this was done
            reconcile(services, model_name)
        elif record.state.status == "promoted":
            _promote(services, record, actor, now)
        else:
            _take_alias(services, record.state)
            _give_back(services, record)  # last: the route tells that all is done
            announce_ledger(services, model_name, now)


def settlement_lock(model_name: str) -> str:
    """Name the lock under which a finished rollout has its effect, or is aborted before it has."""
    return f"settlement/{model_name}"


def is_settled(services: Services, record: RolloutRecord) -> bool:
    """Tell whether a finished rollout has had its effect, or cannot have it any more, whatever happened since."""
    state = record.state
    if state.status == "promoted":
        return was_promoted(services, record) or _is_superseded(services, record)
    current = RouteStore(services.documents, services.acknowledgements).current(state.model_name)
    return current is None or current.route.rollout_id != state.rollout_id


def _take_alias(services: Services, state: RolloutState) -> None:
    """Take the challenger's alias from the rollout's challenger, if it is still its."""
    challenger = services.registry.version_of(state.model_name, CHALLENGER_ALIAS)
    if challenger is not None and challenger.version == state.challenger.version:
        services.registry.delete_alias(state.model_name, CHALLENGER_ALIAS)


def _promote(services: Services, record: RolloutRecord, actor: str, now: str) -> None:
    state = record.state
    assert state.latest is not None
    promote(
        services,
        record.gate_report,
        state.model_name,
        state.challenger.version,
        state.latest.actor or actor,
        f"rollout {state.rollout_id[:12]}: {state.latest.reason}{_why_retrained(services, state)}",
        state.champion.digest,
        now,
    )


def _why_retrained(services: Services, state: RolloutState) -> str:
    reason = services.registry.version(state.model_name, state.challenger.version).tags.get(REASON_TAG)
    return f"; retrained: {reason}" if reason else ""


def _publish(routes: RouteStore, record: RolloutRecord, current: VersionedRoute | None) -> VersionedRoute:
    state = record.state
    ended = state.status in ("rolled_back", "aborted")
    route = Route(
        model_name=state.model_name,
        signature=_signature(record, current),
        champion=state.champion,
        challenger=None if ended else state.challenger,
        weight=state.weight,
        shadow=state.shadow,
        salt="" if ended else state.rollout_id,
        rollout_id=None if ended else state.rollout_id,
    )
    return routes.publish(route, current.version if current else 0)


def _signature(record: RolloutRecord, current: VersionedRoute | None) -> ModelSignature:
    if current is None:
        raise ModelError(_no_route(record))
    return current.route.signature


def _no_route(record: RolloutRecord) -> str:
    return (
        f"version {record.state.challenger.version} of {record.state.model_name} has no route to join; "
        "`stillhouse model reconcile` publishes the champion's"
    )


def _route_lock(model_name: str) -> str:
    """Name the lock under which a rollout moves the route, so that a late ticker cannot undo a newer state's."""
    return f"route/{model_name}"


def _give_back(services: Services, record: RolloutRecord) -> None:
    routes = RouteStore(services.documents, services.acknowledgements)
    with services.locks.hold(_route_lock(record.state.model_name)):
        if is_settled(services, record):
            return
        if _is_superseded(services, record):
            reconcile(services, record.state.model_name)
        else:
            _publish(routes, record, routes.current(record.state.model_name))


def _same_challenger(latest: RolloutRecord, challenger: RegisteredVersion | None) -> RolloutRecord:
    running = latest.state.challenger
    if challenger is not None and not _is_of(latest, challenger):
        raise UserError(
            f"a rollout of version {running.version} of {latest.state.model_name} is running; version "
            f"{challenger.version} has to wait until it ends, or `stillhouse rollout abort {latest.state.model_name}`"
        )
    return latest


def _is_superseded(services: Services, record: RolloutRecord) -> bool:
    """Tell whether another than the rollout's champion is champion now."""
    champion = services.ledger.champion(record.state.model_name)
    return champion is not None and champion.candidate != record.state.champion.digest


def _unused_evidence(services: Services, challenger: RegisteredVersion) -> Digest:
    evidence = _tag(challenger, GATE_REPORT_TAG)
    if any(entry.gate_report == evidence for entry in services.ledger.history(challenger.name)):
        raise GateError(
            f"version {challenger.version} of {challenger.name} was champion by gate report {evidence[:12]} and was "
            "replaced since; the same evidence does not promote it twice. Register a version with new evidence."
        )
    return evidence


def _is_of(record: RolloutRecord, challenger: RegisteredVersion) -> bool:
    return _arm(challenger) == record.state.challenger


def _still_holds(state: RolloutState, champion: LedgerEntry) -> bool:
    """Tell whether the champion still is the one that the finished rollout left in place."""
    left = state.challenger if state.status == "promoted" else state.champion
    return left.digest == champion.candidate


def _was_refused(state: RolloutState, champion: Arm, challenger: Arm) -> bool:
    refused = state.status in ("rolled_back", "aborted")
    return refused and state.champion.is_same_model(champion) and state.challenger.is_same_model(challenger)


def _arm(registered: RegisteredVersion) -> Arm:
    run_id = registered.tags.get(RUN_TAG, "")
    return Arm(digest=_tag(registered, DIGEST_TAG), version=registered.version, run_id=run_id)


def _tag(registered: RegisteredVersion, name: str) -> str:
    value = registered.tags.get(name)
    if not value:
        raise ModelError(
            f"version {registered.version} of {registered.name} has no tag {name}; it was not registered by "
            "`stillhouse run`, so there is no evidence to roll it out on"
        )
    return value
