"""What the server has of ours that `prefect.yaml` no longer names, and which switches people have set."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from infra.prefect.automations import marker
from infra.prefect.declared import Declared


@dataclass(frozen=True)
class Schedule:
    """A schedule on the server."""

    id: str
    slug: str | None
    active: bool


@dataclass(frozen=True)
class Deployment:
    """A deployment on the server."""

    id: str
    name: str
    """`flow/deployment`."""
    schedules: tuple[Schedule, ...] = ()
    limit: str | None = None
    """Name of the concurrency limit that counts its runs."""


@dataclass(frozen=True)
class Automation:
    """An automation on the server."""

    id: str
    name: str
    enabled: bool
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Orphan:
    """Something of ours that no file names."""

    kind: Literal["deployment", "schedule", "automation"]
    name: str
    id: str
    deployment_id: str = ""
    """Of a schedule."""


def orphans(
    declared: Declared, wanted: Collection[str], deployments: Sequence[Deployment], automations: Sequence[Automation]
) -> list[Orphan]:
    """Return what may be removed.

    Args:
        declared: The file.
        wanted: Names of the automations that are made here.
        deployments: Those on the server that have the file's tag. Triggers go with their deployment.
        automations: All that are on the server; those of other makers are left alone.
    """
    found: list[Orphan] = []
    for deployment in deployments:
        slugs = declared.schedules.get(deployment.name)
        if slugs is None:
            found.append(Orphan("deployment", deployment.name, deployment.id))
            continue
        for schedule in deployment.schedules:
            if schedule.slug not in slugs:
                name = f"{deployment.name} {schedule.slug or schedule.id}"
                found.append(Orphan("schedule", name, schedule.id, deployment.id))
    made_here = [one for one in automations if marker(declared.tag) in one.tags]
    found += [Orphan("automation", one.name, one.id) for one in made_here if one.name not in wanted]
    return found


def switched_on(before: Sequence[Deployment], after: Sequence[Deployment]) -> list[tuple[Deployment, Schedule]]:
    """Return the schedules that were active before a deploy and are no longer, though they are the same by slug."""
    active = {(one.name, schedule.slug) for one in before for schedule in one.schedules if schedule.active}
    return [
        (one, schedule)
        for one in after
        for schedule in one.schedules
        if schedule.slug is not None and not schedule.active and (one.name, schedule.slug) in active
    ]


def switched_off(before: Sequence[Automation], after: Sequence[Automation]) -> list[Automation]:
    """Return the automations that a deploy made anew and on, where one of the same name was off before."""
    off = {one.name for one in before if not one.enabled}
    known = {one.id for one in before}
    return [one for one in after if one.enabled and one.name in off and one.id not in known]
