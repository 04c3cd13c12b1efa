"""The check of MLflow."""

from __future__ import annotations

from importlib.metadata import version

from flows.diagnosis.asking import answers, ask
from flows.diagnosis.finding import Finding
from tasks.contracts.addresses import shown
from tasks.runtime.services import Services


def mlflow(services: Services) -> Finding:
    """Ask MLflow, with the credentials that a run would use, for its models."""
    address = services.settings.tracking_url
    if address and address.startswith("http"):
        alive = answers("mlflow", f"{address.rstrip('/')}/health", "start the server, or set STILLHOUSE_TRACKING_URL")
        if alive.state == "broken":
            return alive
    names = services.registry.names()
    if address is None:
        return Finding("mlflow", "ok", f"embedded; {len(names)} registered models")
    detail = f"{shown(address)} lets this user read; {len(names)} registered models"
    if not address.startswith("http"):
        return Finding("mlflow", "ok", detail)
    return judge_version(detail, ask(f"{address.rstrip('/')}/version").text.strip(), version("mlflow"))


def judge_version(detail: str, there: str, here: str) -> Finding:
    """Note a server that is older than the client, which calls what it may not know."""
    if _numbers(there)[:2] < _numbers(here)[:2]:
        return Finding("mlflow", "note", f"{detail}; server {there}, client {here}", "bring the server to the client's")
    return Finding("mlflow", "ok", f"{detail}; server {there}, client {here}")


def _numbers(version_text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version_text.split(".") if part.isdigit())
