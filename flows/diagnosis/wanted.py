"""What prefect.yaml wants on the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.contracts.errors import UserError


@dataclass(frozen=True)
class WantedDeployment:
    """One deployment of the file."""

    name: str
    entrypoint: str
    work_pool: str
    parameters: dict[str, Any]
    num_schedules: int
    automations: tuple[str, ...]
    """Names of its triggers."""


def wanted_deployments(project: Path) -> list[WantedDeployment]:
    """Read the file; a project without one wants nothing.

    Raises:
        UserError: the file is not one that Prefect reads.
    """
    path = project / "prefect.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [_wanted(one) for one in document.get("deployments") or []]
    except FileNotFoundError:
        return []
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); restore it") from error


def _wanted(entry: dict[str, Any]) -> WantedDeployment:
    return WantedDeployment(
        name=str(entry["name"]),
        entrypoint=str(entry["entrypoint"]),
        work_pool=str((entry.get("work_pool") or {}).get("name") or ""),
        parameters=dict(entry.get("parameters") or {}),
        num_schedules=len(entry.get("schedules") or []),
        automations=tuple(str(one["name"]) for one in entry.get("triggers") or [] if one.get("name")),
    )
