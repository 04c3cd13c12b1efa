"""Checks of what serves: the gateway's address, every replica that has a route, and the signatures."""

from __future__ import annotations

from collections.abc import Sequence

from flows.diagnosis.asking import answers
from flows.diagnosis.finding import Finding
from tasks.adapters.route_store import LIVE_FOR, RouteStore, VersionedRoute, is_live
from tasks.contracts.route import RouteAcknowledgement
from tasks.runtime.embedded import running_services
from tasks.runtime.services import Services
from tasks.runtime.settings import Settings
from tasks.stages.signing import configured_key_ids, signature_verdict

_ROUTES = "routes/"


def gateway_address(settings: Settings) -> str:
    """Return where clients reach the gateway: the one of `stillhouse up`, else the setting's."""
    return running_services(settings).get("gateway", settings.gateway_url)


def gateway(services: Services) -> Finding:
    """Tell whether the gateway answers where clients ask it, and is ready."""
    address = gateway_address(services.settings).rstrip("/")
    finding = answers("gateway", f"{address}/v2/health/live", "`stillhouse serve`, or set STILLHOUSE_GATEWAY_URL")
    if finding.state == "broken":
        return Finding("gateway", "note", finding.detail, f"{finding.remedy}; a run starts one for its own rollout")
    ready = answers("gateway", f"{address}/v2/health/ready", "see its log: it is draining, or a champion is not loaded")
    return ready if ready.state == "broken" else Finding("gateway", "ok", f"{ready.detail}: all its models are ready")


def replicas(services: Services) -> Finding:
    """Hold what every replica last said against the newest route of each model."""
    routes = RouteStore(services.documents, services.acknowledgements)
    found = []
    for name in (one.removeprefix(_ROUTES) for one in services.documents.names(_ROUTES)):
        current = routes.current(name)
        if current is not None:
            found.append(judge_replicas(current, routes.acknowledgements(name), _unsigned(services, current)))
    return together(found)


def judge_replicas(current: VersionedRoute, heard: Sequence[RouteAcknowledgement], unsigned: Sequence[str]) -> Finding:
    """Judge one model: replicas that are late, not ready or silent, and models that nobody trusted has signed."""
    name, live = current.route.model_name, [one for one in heard if is_live(one)]
    told = f"{name}: route version {current.version}"
    if unsigned:
        remedy = f"`stillhouse model sign {name}`; gateways that ask for signatures do not load it"
        return Finding("replicas", "broken", f"{told}, unsigned: {'; '.join(unsigned)}", remedy)
    broken = [f"{one.replica} is not ready: {one.message}" for one in live if not one.ready]
    broken += [
        f"{one.replica} still serves version {one.route_version}"
        for one in live
        if one.ready and one.route_version < current.version
    ]
    if broken:
        return Finding("replicas", "broken", f"{told}, {'; '.join(broken)}", "see the replica's log")
    silent = [one.replica for one in heard if one not in live]
    if not live:
        gone = f"{len(silent)} were, and are silent" if silent else "none ever was"
        detail = f"{told}, no live replica ({gone}, within {LIVE_FOR.total_seconds():g} s)"
        return Finding("replicas", "note", detail, "`stillhouse serve` with the same store")
    detail = f"{told}, acknowledged by {', '.join(one.replica for one in live)}"
    if silent:
        return Finding("replicas", "note", f"{detail}; silent: {', '.join(silent)}", "see whether they ended")
    return Finding("replicas", "ok", detail)


def together(findings: Sequence[Finding]) -> Finding:
    """Make one finding of those of all models; the worst counts, and its remedies are kept."""
    if not findings:
        return Finding("replicas", "ok", "no model has a route yet")
    states = [one.state for one in findings]
    worst = next(state for state in ("broken", "note", "ok") if state in states)
    shown = findings if worst == "ok" else [one for one in findings if one.state != "ok"]
    remedy = "; ".join(dict.fromkeys(one.remedy for one in shown if one.remedy))
    return Finding("replicas", worst, " | ".join(one.detail for one in shown), remedy)


def signing(services: Services) -> Finding:
    """Ask whether what this machine signs is what it trusts: else a run would fail when it registers, at its end."""
    key_id, trusted = configured_key_ids(services.settings)
    if trusted is None and key_id is None:
        remedy = "`stillhouse model keygen` makes a pair of keys; see docs/registry.md"
        return Finding("signing", "note", "models are not signed, and gateways serve them so", remedy)
    if trusted is None:
        return Finding("signing", "ok", f"key {key_id} signs; gateways here do not ask for it")
    if key_id is None:
        detail = f"only models signed by {', '.join(trusted)} are served; runs here cannot register any"
        return Finding("signing", "note", detail, "set STILLHOUSE_SIGNING_KEY where plans are run")
    if key_id not in trusted:
        remedy = "put its public key where STILLHOUSE_VERIFY_KEYS points"
        return Finding("signing", "broken", f"key {key_id} signs, but only {', '.join(trusted)} are trusted", remedy)
    return Finding("signing", "ok", f"key {key_id} signs and is trusted")


def _unsigned(services: Services, current: VersionedRoute) -> list[str]:
    route, found = current.route, []
    for arm in (route.champion, route.challenger):
        verdict = None if arm is None else signature_verdict(services, route.model_name, arm.digest)
        if arm is not None and verdict is not None and not verdict.trusted:
            found.append(f"version {arm.version} ({verdict.detail})")
    return found
