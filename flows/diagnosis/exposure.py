"""Whether what is reached over a network is encrypted and asks who is there."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from flows.diagnosis.asking import ask
from flows.diagnosis.finding import Finding
from tasks.adapters.ledger_probe import probe_ledger
from tasks.contracts.errors import StillhouseError
from tasks.runtime.settings import Settings

_ENCRYPTED = ("https", "rediss")


@dataclass(frozen=True)
class Reached:
    """One service as this host reaches it."""

    name: str
    host: str
    is_encrypted: bool
    asks_who: bool
    """Whether credentials are sent, or it was seen to refuse who has none."""


def exposure(settings: Settings, prefect: str | None, gateway: str) -> Finding:
    """Look at every address beyond this host."""
    return judge_exposure(reached(settings, prefect, gateway))


def judge_exposure(services: Sequence[Reached]) -> Finding:
    """Judge the services that lie beyond this host."""
    beyond = [one for one in services if not is_loopback(one.host)]
    if not beyond:
        return Finding("exposure", "ok", "every service is on this host")
    told = [f"{one.name} at {one.host}{_weakness(one)}" for one in beyond]
    if not any(_weakness(one) for one in beyond):
        return Finding("exposure", "ok", f"{', '.join(told)}: encrypted, and asked for credentials")
    return Finding("exposure", "note", ", ".join(told), "turn on TLS and authentication; see docs/security.md")


def reached(settings: Settings, prefect: str | None, gateway: str) -> list[Reached]:
    """List the services that are reached by an address."""
    found = [_http("gateway", gateway, asks_who=_refuses(f"{gateway.rstrip('/')}/metrics"))]
    if prefect:
        sent = any(os.environ.get(name) for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"))
        found.append(_http("prefect", prefect, asks_who=sent))
    if settings.tracking_url and settings.tracking_url.startswith("http"):
        sent = any(os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "TOKEN"))
        found.append(_http("mlflow", settings.tracking_url, asks_who=sent))
    if settings.s3_endpoint:
        found.append(_http("s3", settings.s3_endpoint, asks_who=True))  # every call is signed
    if settings.execution == "ray":
        host = urlsplit(settings.ray_address).hostname or "localhost"
        token = os.environ.get("RAY_AUTH_MODE") == "token"
        found.append(Reached("ray", host, os.environ.get("RAY_USE_TLS") == "1", token))
    if settings.ledger_is_shared:
        found += _ledger(settings)
    return found


def is_loopback(host: str) -> bool:
    """Tell whether a host is this one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "") or host.startswith("/")


def _weakness(one: Reached) -> str:
    missing = [word for word, given in (("no TLS", one.is_encrypted), ("no authentication", one.asks_who)) if not given]
    return f" ({', '.join(missing)})" if missing else ""


def _http(name: str, address: str, *, asks_who: bool) -> Reached:
    parts = urlsplit(address)
    return Reached(name, parts.hostname or "", parts.scheme in _ENCRYPTED, asks_who or parts.password is not None)


def _refuses(url: str) -> bool:
    """Tell whether somebody without credentials is refused; one that does not answer has a check of its own."""
    if is_loopback(urlsplit(url).hostname or ""):
        return False
    try:
        return ask(url).status != httpx.codes.OK
    except OSError:
        return True


def _ledger(settings: Settings) -> list[Reached]:
    host = urlsplit(settings.ledger_address).hostname or ""
    try:
        encrypted = bool(probe_ledger(settings.ledger_address).encrypted)
    except StillhouseError:
        return []
    return [Reached("ledger", host, encrypted, asks_who=True)]
