"""What `prefect.yaml` declares, as far as the server has to be compared with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect.flows import load_flow_arguments_from_entrypoint

_ONE_RUN = "one-run:"


@dataclass(frozen=True)
class Declared:
    """The deployments of a file, by their names on the server: `flow/deployment`."""

    tag: str
    """Which all of them have, and nobody else's."""
    schedules: dict[str, frozenset[str]]
    """The slugs of each deployment's schedules."""
    limits: dict[str, str]
    """The name of the limit that a deployment shares with others, where it does."""


def read_declared(file: Path) -> Declared:
    """Read a `prefect.yaml`.

    Raises:
        ValueError: a deployment lacks the file's tag, or a schedule its slug; the message says which.
    """
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    tag = document["name"]
    deployments = {_name(one, file.parent): one for one in document["deployments"]}
    for name, one in deployments.items():
        if tag not in one.get("tags", []):
            raise ValueError(f"{file}: deployment {name} lacks the tag {tag} (the file's `name`); add it to its `tags`")
        if not all(schedule.get("slug") for schedule in one.get("schedules", [])):
            raise ValueError(f"{file}: a schedule of {name} has no `slug`, by which it is known; give it one")
    return Declared(
        tag=tag,
        schedules={
            name: frozenset(schedule["slug"] for schedule in one.get("schedules", []))
            for name, one in deployments.items()
        },
        limits={
            name: shared for name, one in deployments.items() for shared in one["tags"] if shared.startswith(_ONE_RUN)
        },
    )


def _name(deployment: dict[str, Any], root: Path) -> str:
    """Return `flow/deployment`; the flow's name is read from its source, which is not imported."""
    path, _, function = deployment["entrypoint"].rpartition(":")
    flow = load_flow_arguments_from_entrypoint(f"{root / path}:{function}")["name"]
    return f"{flow}/{deployment['name']}"
