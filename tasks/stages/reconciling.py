"""Make what follows from the ledger equal it: the registry's aliases and the route of the traffic.

Every step looks first and changes only what differs, so a crash at any point is healed by the next
call, whoever makes it.
"""

import logging
from collections.abc import Sequence

from pydantic import ValidationError

from tasks.adapters.route_store import RouteStore, VersionedRoute
from tasks.contracts.errors import DocumentConflictError, InfrastructureError, ModelError
from tasks.contracts.registration import CHALLENGER_ALIAS, CHAMPION_ALIAS, PREVIOUS_ALIAS, SIGNATURE_TAG
from tasks.contracts.route import Arm, ModelSignature, Route
from tasks.contracts.value import Value
from tasks.contracts.verdict import LedgerEntry
from tasks.decisions.succession import champions_in_effect
from tasks.runtime.bookkeeping import RegisteredVersion
from tasks.runtime.services import Services

_MAX_ROUNDS = 5

_logger = logging.getLogger(__name__)


class Reconciliation(Value):
    """What had to change so that aliases and route equal the ledger."""

    champion: LedgerEntry
    """The newest entry of the ledger."""
    route_version: int
    changes: tuple[str, ...]
    """One sentence each; empty when all was well."""


def reconcile(services: Services, model_name: str) -> Reconciliation:
    """Make aliases and route equal the ledger, read them back, and say what was changed.

    Raises:
        ModelError: the ledger knows no champion of the model, or its version cannot be served.
        InfrastructureError: another writer keeps changing aliases or route.
    """
    with services.locks.hold(promotion_lock(model_name)):
        return follow_ledger(services, model_name)


def reconcile_known(services: Services, model_name: str) -> Reconciliation | None:
    """As `reconcile`; a model of which the ledger knows no champion is left alone, and None returned.

    For callers that learn a model's name from elsewhere: a registry holds models that others look after.

    Raises:
        ModelError: the champion's version cannot be served.
        InfrastructureError: another writer keeps changing aliases or route.
    """
    if services.ledger.champion(model_name) is None:
        _logger.info("%s has no champion in the ledger; it is left alone", model_name)
        return None
    outcome = reconcile(services, model_name)
    if outcome.changes:
        _logger.warning("%s was mended: %s", model_name, "; ".join(outcome.changes))
    return outcome


def promotion_lock(model_name: str) -> str:
    """Return the name of the lock under which the champion of a model changes."""
    return f"promotion/{model_name}"


def follow_ledger(services: Services, model_name: str) -> Reconciliation:
    """As `reconcile`, for a caller that holds the lock.

    The last round is the read-back: it found nothing to change. A further one is needed only when a
    writer that does not share the lock (another host) was active.
    """
    changes: list[str] = []
    for _ in range(_MAX_ROUNDS):
        history = services.ledger.history(model_name)
        in_effect = champions_in_effect(history)
        if not in_effect:
            raise ModelError(
                f"the ledger knows no champion of {model_name}; check its name and STILLHOUSE_LEDGER_URL, "
                "or run a plan, which makes the baseline the first champion"
            )
        realised = _follow_aliases(services, model_name, in_effect)
        route_version, routed = _follow_route(services, in_effect[-1])
        realised += routed
        if not realised:
            return Reconciliation(champion=history[-1], route_version=route_version, changes=tuple(changes))
        changes += realised
    raise InfrastructureError(
        f"aliases and route of {model_name} do not stay as the ledger says; another program changes them. "
        f"Changed so far: {'; '.join(changes)}"
    )


def _follow_aliases(services: Services, model_name: str, in_effect: Sequence[LedgerEntry]) -> list[str]:
    registry = services.registry
    champion = in_effect[-1].version
    wanted = {CHAMPION_ALIAS: champion, PREVIOUS_ALIAS: in_effect[-2].version if len(in_effect) > 1 else None}
    challenger = registry.version_of(model_name, CHALLENGER_ALIAS)
    if challenger is not None and challenger.version == champion:
        wanted[CHALLENGER_ALIAS] = None
    changes = []
    for alias, version in wanted.items():
        pointed = registry.version_of(model_name, alias)
        found = pointed.version if pointed else None
        if found == version:
            continue
        if version is None:
            registry.delete_alias(model_name, alias)
        else:
            registry.set_alias(model_name, alias, version)
        changes.append(f"alias {alias}: {_named(found)} -> {_named(version)}")
    return changes


def _follow_route(services: Services, champion: LedgerEntry) -> tuple[int, list[str]]:
    """Return the version of the route, and what was changed."""
    routes = RouteStore(services.documents, services.acknowledgements)
    current = routes.current(champion.model_name)
    arm = Arm(digest=champion.candidate, version=champion.version, run_id=champion.run_id or "")
    if current is not None and _serves(current.route, arm):
        return current.version, []
    registered = services.registry.version(champion.model_name, champion.version)
    route = Route(model_name=champion.model_name, signature=_signature_of(registered, current), champion=arm)
    known = current.version if current else 0
    before = _named(current.route.champion.version if current else None)
    try:
        published = routes.publish(route, known)
    except DocumentConflictError:
        return known, ["route: another writer was first, looking again"]
    return published.version, [f"route champion: {before} -> {_named(arm.version)} (route version {published.version})"]


def _serves(route: Route, champion: Arm) -> bool:
    """Tell whether the route may stay: a running rollout against this champion is not disturbed."""
    own_challenger = route.challenger is not None and route.challenger.digest == champion.digest
    return route.champion.is_same_model(champion) and not own_challenger


def _signature_of(registered: RegisteredVersion, current: VersionedRoute | None) -> ModelSignature:
    """Read what the version takes and gives from its tag; else from the route that it follows."""
    text = registered.tags.get(SIGNATURE_TAG)
    if text is not None:
        try:
            return ModelSignature.model_validate_json(text)
        except ValidationError as error:
            raise ModelError(
                f"tag {SIGNATURE_TAG} of version {registered.version} of {registered.name} is damaged: {error}"
            ) from error
    if current is not None:
        return current.route.signature
    raise ModelError(
        f"version {registered.version} of {registered.name} has no tag {SIGNATURE_TAG}, so no gateway would know "
        "what it takes; register it with `stillhouse run`"
    )


def _named(version: int | None) -> str:
    return "none" if version is None else f"version {version}"
