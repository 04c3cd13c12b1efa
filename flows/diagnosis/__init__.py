"""Checks of a whole deployment, each on its own and within a time limit, so that one that is broken hides none."""

from __future__ import annotations

from functools import partial

from flows.diagnosis import cluster, database, exposure, host, serving, storage, tracking
from flows.diagnosis.asking import answers
from flows.diagnosis.clocks import clocks
from flows.diagnosis.finding import Check, Finding, guarded
from flows.diagnosis.orchestration import (
    judge_automations,
    judge_deployments,
    judge_schedules,
    judge_server,
    judge_workers,
)
from flows.diagnosis.wanted import wanted_deployments
from tasks.adapters.prefect_events import server_address
from tasks.adapters.prefect_state import read_prefect_state
from tasks.contracts.addresses import shown
from tasks.runtime.services import Services, connect

__all__ = ["Finding", "diagnose"]


def diagnose() -> list[Finding]:
    """Run all checks in the order in which a plan would need what they check."""
    services = connect()
    settings = services.settings
    address = server_address(settings)
    local: dict[str, Check] = {
        "versions": host.versions,
        "store": partial(storage.store, services),
        "log": partial(storage.log, services),
        "disk": partial(host.disk, settings),
        "data": partial(host.data, settings),
    }
    found = [guarded(name, check) for name, check in local.items()]
    found += _prefect(services, address)
    gateway = serving.gateway_address(settings)
    others: dict[str, Check] = {
        "mlflow": partial(tracking.mlflow, services),
        "ledger": partial(database.ledger, services),
        "locks": partial(database.locks, services),
        "signing": partial(serving.signing, services),
        "gateway": partial(serving.gateway, services),
        "replicas": partial(serving.replicas, services),
        "clocks": partial(clocks, settings, _addresses(services, address, gateway)),
        "exposure": partial(exposure.exposure, settings, address, gateway),
    }
    if settings.execution == "ray":
        others["ray"] = partial(cluster.ray, settings)
    others["gpu"] = host.gpu
    return found + [guarded(name, check) for name, check in others.items()]


def _prefect(services: Services, address: str | None) -> list[Finding]:
    """Ask the server once for all that is judged of it; one that is away is one finding, not five."""
    if address is None:
        remedy = "`stillhouse up` keeps one running"
        return [Finding("prefect", "ok", "a server starts and ends with every run", remedy)]
    remedy = "start the server, or set PREFECT_API_URL"
    alive = guarded("prefect", partial(answers, "prefect", f"{address.rstrip('/')}/health", remedy))
    if alive.state == "broken":
        return [alive]
    told = []

    def server() -> Finding:
        told.append(read_prefect_state(address))
        return judge_server(shown(address), told[0])

    found = [guarded("prefect", server)]
    if not told:
        return found
    wanted = partial(wanted_deployments, services.settings.project)
    judged = {
        "workers": judge_workers,
        "deployments": judge_deployments,
        "schedules": judge_schedules,
        "automations": judge_automations,
    }
    for name, judge in judged.items():
        found.append(guarded(name, lambda judge=judge: judge(told[0], wanted())))  # type: ignore[misc]
    return found


def _addresses(services: Services, prefect: str | None, gateway: str) -> dict[str, str]:
    """Return what can be asked for its time, by name."""
    settings = services.settings
    found = {"gateway": f"{gateway.rstrip('/')}/v2/health/live"}
    if prefect:
        found["prefect"] = f"{prefect.rstrip('/')}/health"
    if settings.tracking_url and settings.tracking_url.startswith("http"):
        found["mlflow"] = f"{settings.tracking_url.rstrip('/')}/health"
    if settings.s3_endpoint:
        found["s3"] = settings.s3_endpoint
    return found
