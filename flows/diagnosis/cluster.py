"""The check of the Ray cluster, where stages run on one."""

from __future__ import annotations

from flows.diagnosis.finding import Finding
from tasks.adapters.ray_probe import ClusterFacts, probe_cluster
from tasks.runtime.settings import Settings

_TARGET = "target-"


def ray(settings: Settings) -> Finding:
    """Ask the cluster what it has."""
    return judge_cluster(probe_cluster(settings))


def judge_cluster(facts: ClusterFacts) -> Finding:
    """Judge whether stages of each sort find a place."""
    shown = ", ".join(
        f"{amount / 2**30:.0f} GiB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in sorted(facts.resources.items())
    )
    detail = f"{facts.address}: {facts.num_nodes} nodes, {shown or 'nothing'}"
    if facts.resources.get("CPU", 0.0) < 1:
        return Finding("ray", "broken", detail, "no node offers a CPU: `ray start --num-cpus=...` on one that trains")
    if not any(name.startswith(_TARGET) for name in facts.resources):
        remedy = "no node measures: `ray start --num-cpus=0 --resources='{\"target-cpu\": 1}'`; see docs/operations.md"
        return Finding("ray", "note", detail, remedy)
    return Finding("ray", "ok", detail)
