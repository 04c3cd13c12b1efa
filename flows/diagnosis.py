"""Checks of every service and setting, each on its own, so that one that is broken hides none."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import httpx

from tasks.adapters.dvc import tracked_revision
from tasks.adapters.gateway_companion import shipping_state
from tasks.adapters.s3_store import S3Documents
from tasks.contracts.errors import InfrastructureError, StillhouseError
from tasks.runtime.embedded import running_services
from tasks.runtime.services import Services, connect
from tasks.stages.signing import configured_key_ids

_FREE_BYTES_WANTED = 2_000_000_000
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    state: Literal["ok", "note", "broken"]
    detail: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Run all checks in the order in which a plan would need what they check."""
    services = connect()
    checks: list[tuple[str, Callable[[Services], Finding]]] = [
        ("versions", _versions),
        ("store", _store),
        ("log", _log),
        ("disk", _disk),
        ("data", _data),
        ("prefect", _prefect),
        ("mlflow", _mlflow),
        ("ledger", _ledger),
        ("locks", _locks),
        ("signing", _signing),
        ("gateway", _gateway),
        ("gpu", _gpu),
    ]
    return [_guarded(name, check, services) for name, check in checks]


def _guarded(name: str, check: Callable[[Services], Finding], services: Services) -> Finding:
    try:
        return check(services)
    except InfrastructureError as error:
        return Finding(name, "broken", str(error), "see the message; the setting that it names holds the address")
    except (StillhouseError, OSError) as error:
        return Finding(name, "broken", str(error), "see the message")


def _versions(_services: Services) -> Finding:
    names = ("stillhouse", "prefect", "mlflow", "torch", "onnxruntime", "dvc", "great-expectations")
    return Finding("versions", "ok", ", ".join(f"{name} {version(name)}" for name in names))


def _store(services: Services) -> Finding:
    reference = services.artifacts.put(b"written by stillhouse doctor\n")
    services.artifacts.get(reference.digest)
    if isinstance(services.documents, S3Documents):
        services.documents.require_create_once()
    return Finding("store", "ok", f"{services.settings.store_address} can be written and read")


def _log(services: Services) -> Finding:
    """Ask how much of the log waits on this machine, and whether some was lost."""
    state = shipping_state(services.settings)
    if state is None:
        return Finding("log", "ok", f"gateways write it to {services.traffic.place}")
    detail = (
        f"{state.waiting_segments} segments wait for {services.traffic.place}; shipped {state.shipped_rows} rows, "
        f"lost {state.lost_rows}"
    )
    if state.lost_rows or state.damaged_segments:
        remedy = "see the companion's messages; give it room by --max-waiting-gb, or S3 a way to be reached"
        return Finding("log", "note", f"{detail}, set aside {state.damaged_segments} segments", remedy)
    return Finding("log", "ok", detail)


def _disk(services: Services) -> Finding:
    root = services.settings.store_root
    place = next(folder for folder in (root, *root.parents) if folder.is_dir())  # with a store in S3 it comes later
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free at {place}"
    if free < _FREE_BYTES_WANTED:
        return Finding("disk", "note", detail, "free space, or set STILLHOUSE_STORE to a larger disk")
    return Finding("disk", "ok", detail)


def _data(services: Services) -> Finding:
    revision = tracked_revision(services.settings.project)
    if revision is None:
        return Finding(
            "data", "note", f"no data.dvc in {services.settings.project}", "set STILLHOUSE_PROJECT to a checkout"
        )
    present = (services.settings.project / "data").is_dir()
    detail = f"data.dvc tracks {revision}; data/ is {'there' if present else 'not there yet'}"
    return Finding(
        "data", "ok" if present else "note", detail, "" if present else "`stillhouse data pull`, or just run a plan"
    )


def _prefect(services: Services) -> Finding:
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return Finding("prefect", "ok", "a server starts and ends with every run", "`stillhouse up` keeps one running")
    return _answers("prefect", f"{address.rstrip('/')}/health", "start the server, or set PREFECT_API_URL")


def _mlflow(services: Services) -> Finding:
    address = services.settings.tracking_url
    if address and address.startswith("http"):
        return _answers("mlflow", f"{address.rstrip('/')}/health", "start the server, or set STILLHOUSE_TRACKING_URL")
    models = services.registry.names()
    return Finding("mlflow", "ok", f"embedded; {len(models)} registered models")


def _ledger(services: Services) -> Finding:
    champions = [name for name in services.registry.names() if services.ledger.champion(name)]
    return Finding("ledger", "ok", f"readable; champions of {', '.join(champions) or 'no model yet'}")


def _locks(services: Services) -> Finding:
    with services.locks.hold(f"doctor/{platform.node()}/{os.getpid()}"):
        pass
    if services.settings.ledger_is_shared:
        return Finding("locks", "ok", "leases in the ledger's database, for all hosts that use it")
    remedy = "a ledger in PostgreSQL (STILLHOUSE_LEDGER_URL) lets several share them"
    return Finding("locks", "ok", "files, for the processes of this host", remedy)


def _signing(services: Services) -> Finding:
    """Ask whether what this machine signs is what it trusts: else a run would fail when it registers, at its end."""
    key_id, trusted = configured_key_ids(services.settings)
    if trusted is None and key_id is None:
        remedy = "`stillhouse model keygen` makes a pair of keys; see docs/registry.md"
        return Finding("signing", "note", "models are not signed, and gateways serve them so", remedy)
    if trusted is None:
        return Finding("signing", "ok", f"key {key_id} signs; gateways here do not ask for it")
    if key_id is None:
        return Finding(
            "signing", "note", f"only models signed by {', '.join(trusted)} are served; runs here cannot register any",
            "set STILLHOUSE_SIGNING_KEY where plans are run",
        )  # fmt: skip
    if key_id not in trusted:
        remedy = "put its public key where STILLHOUSE_VERIFY_KEYS points"
        return Finding("signing", "broken", f"key {key_id} signs, but only {', '.join(trusted)} are trusted", remedy)
    return Finding("signing", "ok", f"key {key_id} signs and is trusted")


def _gateway(services: Services) -> Finding:
    address = running_services(services.settings).get("gateway", services.settings.gateway_url)
    finding = _answers("gateway", f"{address}/v2/health/live", "`stillhouse serve`, or set STILLHOUSE_GATEWAY_URL")
    if finding.state == "broken":
        return Finding("gateway", "note", finding.detail, f"{finding.remedy}; a run starts one for its own rollout")
    return finding


def _gpu(_services: Services) -> Finding:
    device = shutil.which("nvidia-smi")
    if device is None:
        return Finding("gpu", "note", "none found; stages run on the CPU")
    return Finding("gpu", "ok", "nvidia-smi is there; techniques that ask for a GPU get it")


def _answers(name: str, url: str, remedy: str) -> Finding:
    try:
        reply = httpx.get(url, timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        return Finding(name, "broken", f"{url} does not answer: {error}", remedy)
    if reply.status_code != httpx.codes.OK:
        return Finding(name, "broken", f"{url} answers {reply.status_code}", remedy)
    return Finding(name, "ok", f"{url} answers")
