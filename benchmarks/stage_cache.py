"""What the stage cache and the isolated process add to a stage's own work."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from benchmarks.result import Figure, Findings, figure, ratio
from tasks.contracts.artifact import ArtifactRef, artifact_key
from tasks.contracts.model import ModelRef, StageResult
from tasks.runtime.placement import LocalPlacement, run_placed
from tasks.runtime.services import connect
from tasks.runtime.stage import stage_task

_NUM_STAGES = 100
_NUM_STARTS = 20
_ARTIFACT_BYTES = 100_000
_SEED = 0
_DIGEST = "0" * 64


def measure() -> Findings:
    """Time stages and plain tasks in turns, and starts of processes in turns."""
    return Findings(
        question="What does a cached stage cost, and what its own process?",
        setup=(
            f"{_NUM_STAGES} stages with a result that names an artifact of {_ARTIFACT_BYTES // 1000} kB: from the "
            "cache of an earlier flow (record read, artifact's digest verified), computed and recorded, and as a plain "
            "Prefect task without cache; the embedded Prefect server. A process: a call that formats one string, "
            "against a bare interpreter and against one that imports what such a process needs."
        ),
        seeds={"artifact": _SEED},
        figures=(*_task_figures(_stored_artifact()), *_process_figures(_time_starts())),
    )


def _stored_artifact() -> ArtifactRef:
    return connect().artifacts.put(np.random.default_rng(_SEED).bytes(_ARTIFACT_BYTES))


def _result(number: int, artifact: ArtifactRef) -> StageResult:
    model = ModelRef(digest=artifact.digest, format="onnx", size_bytes=artifact.size_bytes)
    return StageResult(stage_key="benchmark", kind="export", model=model, seconds=0.0, details={"number": number})


@stage_task(sources=lambda inputs: ["tasks.stages.applying"])
def cached(number: int, artifact: ArtifactRef) -> StageResult:
    """Do nothing, as a stage; its key covers the source that a compression stage executes."""
    return _result(number, artifact)


@task(cache_policy=NO_CACHE, persist_result=False)
def plain(number: int, artifact: ArtifactRef) -> StageResult:
    """Do nothing, as a task that Prefect neither caches nor stores."""
    return _result(number, artifact)


@flow(persist_result=False)
def time_stages(artifact: ArtifactRef) -> tuple[list[float], list[float]]:
    """Return the milliseconds of stages, computed in the first such flow and cached in later ones, and of plain tasks.

    Two flows, since a flow keeps the results that it has seen in memory: a hit in the flow that computed
    the stage would be cheaper than what a later run pays.
    """
    stages: list[float] = []
    plain_tasks: list[float] = []
    cached(_NUM_STAGES, artifact)  # what only the first call costs
    plain(_NUM_STAGES, artifact)
    for number in range(_NUM_STAGES):
        stages.append(_timed(partial(cached, number, artifact)))
        plain_tasks.append(_timed(partial(plain, number, artifact)))
    return stages, plain_tasks


def _task_figures(artifact: ArtifactRef) -> list[Figure]:
    computed, beside_computed = time_stages(artifact)
    hits, beside_hits = time_stages(artifact)
    return [
        ratio("time: cache hit / plain task", hits, beside_hits),
        ratio("time: computed and recorded / plain task", computed, beside_computed),
        figure("a cache hit", "ms", hits, supporting=True),
        figure("computed and recorded", "ms", computed, supporting=True),
        figure("a plain task", "ms", beside_hits, supporting=True),
    ]


def _time_starts() -> dict[str, list[float]]:
    placement = LocalPlacement()
    calls: dict[str, Callable[[], object]] = {
        "isolated": lambda: run_placed(placement, artifact_key, digest=_DIGEST),
        "interpreter": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        "imports": lambda: subprocess.run([sys.executable, "-c", "import tasks.runtime.isolation"], check=True),
        "in process": lambda: artifact_key(_DIGEST),
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(_NUM_STARTS):
        for name, call in calls.items():
            milliseconds[name].append(_timed(call))
    return milliseconds


def _process_figures(milliseconds: dict[str, list[float]]) -> list[Figure]:
    return [
        ratio(
            "time: call in its own process / bare interpreter", milliseconds["isolated"], milliseconds["interpreter"]
        ),
        ratio(
            "time: call in its own process / process with its imports",
            milliseconds["isolated"],
            milliseconds["imports"],
        ),
        figure("a call in its own process", "ms", milliseconds["isolated"], supporting=True),
        figure("a bare interpreter", "ms", milliseconds["interpreter"], supporting=True),
        figure("an interpreter that imports the isolation", "ms", milliseconds["imports"], supporting=True),
        figure("the same call in process", "ms", milliseconds["in process"], supporting=True),
    ]


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3
