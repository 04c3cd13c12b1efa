"""Checks of Prefect: the server, its workers, and what prefect.yaml wants of it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from flows.diagnosis.finding import Finding
from flows.diagnosis.wanted import WantedDeployment
from tasks.adapters.prefect_state import DeploymentState, PrefectState

_DEPLOY = "`python infra/prefect/deploy.py process` (or kubernetes) where prefect.yaml lies"
_NEWS = "stillhouse: "
"""What the names of the automations begin with that `stillhouse notify` makes."""


def judge_server(address: str, state: PrefectState, here: str | None = None) -> Finding:
    """Judge the server's version beside the one that is installed here."""
    here = here or version("prefect")
    detail = f"{address} answers; server {state.version}, client {here}"
    if _minor(state.version) < _minor(here):
        return Finding("prefect", "note", detail, "bring the server to the client's version before the clients")
    return Finding("prefect", "ok", detail)


def judge_workers(state: PrefectState, wanted: Sequence[WantedDeployment]) -> Finding:
    """Judge the work pools that deployments name: there, not paused, and with a worker that was heard of lately."""
    names = sorted({one.work_pool for one in wanted if one.work_pool} | set(state.pools))
    needed = {one.work_pool for one in wanted}
    missing = [name for name in names if name not in state.pools]
    if missing:
        return Finding("workers", "broken", f"no work pool {', '.join(missing)} on the server", _DEPLOY)
    shown = [f"{name} ({state.pools[name].type}): {', '.join(state.pools[name].workers) or 'none'}" for name in names]
    detail = f"live workers of {'; '.join(shown)}" if shown else "no work pools"
    paused = [name for name in names if state.pools[name].is_paused]
    if paused:
        remedy = "; ".join(f"`prefect work-pool resume {name}`" for name in paused)
        return Finding("workers", "note", f"{detail}; paused: {', '.join(paused)}", remedy)
    idle = [name for name in names if name in needed and not state.pools[name].workers]
    if idle:
        remedy = "; ".join(f"`prefect worker start --pool {name}`" for name in idle)
        return Finding("workers", "broken", f"{detail}; nobody takes the runs of {', '.join(idle)}", remedy)
    return Finding("workers", "ok", detail)


def judge_deployments(state: PrefectState, wanted: Sequence[WantedDeployment]) -> Finding:
    """Judge whether the server has every deployment of the file as the file says."""
    if not wanted:
        remedy = "set STILLHOUSE_PROJECT to a checkout"
        return Finding("deployments", "note", "there is no prefect.yaml to compare with", remedy)
    missing = [one.name for one in wanted if one.name not in state.deployments]
    if missing:
        detail = f"{len(missing)} of {len(wanted)} are not on the server: {', '.join(missing)}"
        return Finding("deployments", "broken", detail, _DEPLOY)
    stale = [f"{one.name} ({why})" for one in wanted if (why := _difference(one, state.deployments[one.name]))]
    if stale:
        return Finding("deployments", "note", f"other than in prefect.yaml: {', '.join(stale)}", _DEPLOY)
    paused = [one.name for one in wanted if state.deployments[one.name].is_paused]
    if paused:
        remedy = "resume them on the server's page, or by `prefect deployment schedule resume`"
        return Finding("deployments", "note", f"all {len(wanted)} there; paused: {', '.join(paused)}", remedy)
    return Finding("deployments", "ok", f"all {len(wanted)} of prefect.yaml are there, as it says")


def judge_schedules(state: PrefectState, wanted: Sequence[WantedDeployment]) -> Finding:
    """Say which schedules run. One that is off is nobody's fault: the file delivers them so."""
    known = {one.name: state.deployments[one.name] for one in wanted if one.name in state.deployments}
    on = sorted(name for name, one in known.items() if one.schedules_on)
    off = sorted(name for name, one in known.items() if one.schedules_off and not one.schedules_on)
    detail = f"on: {', '.join(on) or 'none'}; off: {', '.join(off) or 'none'}"
    if off and not on:
        remedy = (
            "nothing runs by itself; switch on what should, on the server's page or by `prefect deployment schedule`"
        )
        return Finding("schedules", "note", detail, remedy)
    return Finding("schedules", "ok", detail)


def judge_automations(state: PrefectState, wanted: Sequence[WantedDeployment]) -> Finding:
    """Judge the triggers of the file, and whether anybody is told of news."""
    names = [name for one in wanted for name in one.automations]
    missing = [name for name in names if not any(_is_called(known, name) for known in state.automations)]
    if missing:
        return Finding("automations", "broken", f"not on the server: {', '.join(missing)}", _DEPLOY)
    off = sorted(name for name, enabled in state.automations.items() if not enabled)
    news = sum(name.startswith(_NEWS) for name in state.automations)
    detail = f"{len(names)} of prefect.yaml and {news} that tell people are there"
    if off:
        return Finding("automations", "note", f"{detail}; off: {', '.join(off)}", "switch them on")
    if not news:
        return Finding("automations", "note", detail, "`stillhouse notify TYPE/NAME` has people told of alarms")
    return Finding("automations", "ok", detail)


def _difference(wanted: WantedDeployment, found: DeploymentState) -> str:
    """Say what differs; parameters that only the server has were given there on purpose."""
    if found.entrypoint != wanted.entrypoint:
        return f"runs {found.entrypoint}"
    if wanted.work_pool and found.work_pool != wanted.work_pool:
        return f"pool {found.work_pool or 'none'}"
    other = [name for name, value in wanted.parameters.items() if found.parameters.get(name) != value]
    if other:
        return f"parameter {', '.join(other)}"
    schedules = found.schedules_on + found.schedules_off
    return "" if schedules == wanted.num_schedules else f"{schedules} schedules, not {wanted.num_schedules}"


def _is_called(known: str, name: str) -> bool:
    """Prefect puts the deployment's name before a trigger's where the file gives none of its own."""
    return known == name or known.endswith(f"/{name}")


def _minor(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
