"""What a person may tell a running rollout, each recorded in the ledger with who and why before it has an effect.

An order takes the tick number after the newest, like a tick: of a tick and an order, or of two orders at
once, one is recorded first and the other looks anew. An abort counts as long as no promotion is in the ledger.
"""

from collections.abc import Callable

from tasks.contracts.errors import DocumentConflictError, InfrastructureError, UserError
from tasks.contracts.value import Slug
from tasks.contracts.verdict import Verdict
from tasks.decisions import rollout
from tasks.decisions.rollout import RolloutState
from tasks.decisions.rollout_state import SkipScope
from tasks.runtime.services import Services
from tasks.stages.promoting import passed_report
from tasks.stages.rolling import is_settled, settle, settlement_lock
from tasks.stages.rollout_record import RolloutRecord, append_record, latest_record

_MAX_ATTEMPTS = 20

Order = Callable[[RolloutState], RolloutState]


def abort_rollout(services: Services, model_name: Slug, reason: str, now: str, actor: str = "rollout") -> RolloutRecord:
    """End the running rollout and give all traffic back to the champion.

    It also takes back a decision to promote that has not reached the ledger. Aborting twice is aborting once.

    Raises:
        UserError: no rollout of the model is running.
    """
    with services.locks.hold(settlement_lock(model_name)):
        latest = latest_record(services, model_name)
        if latest is None or _is_over(services, latest):
            raise UserError(_not_running(model_name))
        ended = _ordered(services, latest, lambda state: rollout.abort(state, reason, now, actor))
    settle(services, ended, actor, now)
    return ended


def resume_rollout(services: Services, model_name: Slug, reason: str, now: str, actor: str) -> RolloutRecord:
    """Leave the pause that the rollout is in; one that is not paused stays as it is.

    Raises:
        UserError: no rollout of the model is running.
    """
    latest = _running(services, model_name)
    return _ordered(services, latest, _at_step(latest, lambda state: rollout.resume(state, reason, now, actor)))


def promote_rollout(
    services: Services, model_name: Slug, scope: SkipScope, reason: str, now: str, actor: str
) -> RolloutRecord:
    """Have the next tick go past what this step, or the whole rollout, still waits for.

    It goes past pauses, analyses and missing evidence, and past nothing else: `obstacles` says what stays.

    Raises:
        UserError: no rollout of the model is running.
        GateError: the challenger's gate report did not pass.
    """
    latest = _running(services, model_name)
    passed_report(services, latest.gate_report, model_name)

    def order(state: RolloutState) -> RolloutState:
        return rollout.skip(state, scope, reason, now, actor)

    return _ordered(services, latest, _at_step(latest, order) if scope == "step" else order)


def obstacles(record: RolloutRecord) -> tuple[str, ...]:
    """Say, by the last look, what an order to promote does not go past: harm, or traffic divided wrongly."""
    return _checks(record, Verdict.FAIL)


def unproven(record: RolloutRecord) -> tuple[str, ...]:
    """Say, by the last look, which checks prove nothing yet, and are gone past by an order to promote."""
    return tuple(one for one in _checks(record, Verdict.INCONCLUSIVE) if not one.startswith("sample_ratio"))


def _checks(record: RolloutRecord, verdict: Verdict) -> tuple[str, ...]:
    found = record.state.latest.checks if record.state.latest else ()
    return tuple(f"{check.name}: {check.detail}" for check in found if check.verdict is verdict and _judges(check.name))


def _judges(check: str) -> bool:
    """Tell whether a check is about the challenger; missing feedback is no fault of its."""
    return check != "feedback"


def _running(services: Services, model_name: Slug) -> RolloutRecord:
    latest = latest_record(services, model_name)
    if latest is None or latest.state.finished:
        raise UserError(_not_running(model_name))
    return latest


def _at_step(record: RolloutRecord, order: Order) -> Order:
    """Make an order one of the step that `record` is at: when a tick has left it meanwhile, nothing is left to do."""
    return lambda state: order(state) if state.step == record.state.step else state


def _ordered(services: Services, latest: RolloutRecord, order: Order) -> RolloutRecord:
    """Append the order after the newest record, whatever comes between; nothing if it changes nothing."""
    for _ in range(_MAX_ATTEMPTS):
        state = order(latest.state)
        if state == latest.state:
            return latest
        ordered = latest.model_copy(update={"state": state})
        try:
            append_record(services, ordered)
        except DocumentConflictError:
            latest = _newest_of(services, latest)
            continue
        return ordered
    raise InfrastructureError(
        f"{_MAX_ATTEMPTS} other writers were faster at the rollout of {latest.state.model_name}; try again"
    )


def _newest_of(services: Services, record: RolloutRecord) -> RolloutRecord:
    newest = latest_record(services, record.state.model_name)
    if newest is None or newest.state.rollout_id != record.state.rollout_id:
        raise UserError(_not_running(record.state.model_name))
    return newest


def _is_over(services: Services, record: RolloutRecord) -> bool:
    """Tell whether an abort comes too late."""
    if record.state.status == "promoted":
        return is_settled(services, record)
    return record.state.status == "rolled_back"


def _not_running(model_name: Slug) -> str:
    return f"no rollout of {model_name} is running; `stillhouse rollout status {model_name}` shows the last"
