"""What orchestration costs: a cold run beside a plain script, a cached one beside `dvc repro`, a stage's start on Ray.

`BENCHMARK_SHARE=0.1` tries it out: one turn, on a plan whose trainings are a tenth as long.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.claims import SHARE_VARIABLE, num_runs
from benchmarks.dvc_pipeline import make_pipeline, reproduce
from benchmarks.plan_runs import ROOT
from benchmarks.ray_site import on_ray
from benchmarks.result import RATIO, Figure, Findings, figure
from tasks.runtime.settings import current_settings

_PLAN = Path("plans/digits.yaml")
_TURNS = 1
"""Of cold runs, a quarter of an hour each."""
_CACHED_TURNS = 10
_STARTS = 20
_OWN, _KEPT, _POOL, _SINGLE = "own server", "kept server", "pool", "one process"
_READY_WITHIN_S = 300.0


def measure() -> Findings:
    """Run the plan cold by each way in turns, then cached, then start stages."""
    num_cpus = len(os.sched_getaffinity(0))
    site = _Site(current_settings().home, short_plan())
    cold = site.run_cold(num_runs(_TURNS), num_cpus)
    cached, num_stages = site.run_cached(num_runs(_CACHED_TURNS))
    started = on_ray("starts", {"repeats": num_runs(_STARTS)})
    return Findings(
        question="What does orchestration cost beside the work?",
        setup=(
            f"`{_PLAN}` by `stillhouse run --no-rollout`, from the start of the command to its end, stages cold and "
            "the engines' databases there; with a Prefect server that it starts for itself, and with one that is kept. "
            "Beside it a plain script that calls the same functions of the stages, makes the same models, and neither "
            "caches, retries, records nor reports anything: its candidates and tests side by side in a pool of "
            f"{num_cpus} processes, or everything in one. "
            f"Nothing to do: the same command again, beside `dvc repro` of a pipeline of {num_stages} stages with the "
            "same artifacts, which it knows by size and time where a run verifies their digests, registers and "
            "reports. Start: from the call to the first line of the stage's function, a stage that imports nothing."
        ),
        seeds={"plan": 0},
        figures=(*_cold_figures(cold), *_cached_figures(cached), *_start_figures(started)),
    )


def _cold_figures(seconds: dict[str, list[float]]) -> Iterator[Figure]:
    for way, words in ((_OWN, "with its own Prefect server"), (_KEPT, "with a kept Prefect server")):
        for other in (_POOL, _SINGLE):
            ratios = [own / plain for own, plain in zip(seconds[way], seconds[other], strict=True)]
            yield figure(f"cold run {words} / plain script, {other}", RATIO, ratios)
    for way in seconds:
        yield figure(f"cold: {way}", "s", seconds[way], supporting=True)


def _cached_figures(seconds: dict[str, list[float]]) -> Iterator[Figure]:
    for way, words in ((_OWN, "with its own Prefect server"), (_KEPT, "with a kept Prefect server")):
        yield figure(f"cached run {words}", "s", seconds[way])
        ratios = [own / dvc for own, dvc in zip(seconds[way], seconds["dvc"], strict=True)]
        yield figure(f"cached run {words} / `dvc repro`", RATIO, ratios)
    yield figure("`dvc repro` with nothing to do", "s", seconds["dvc"])


def _start_figures(milliseconds: dict[str, list[float]]) -> Iterator[Figure]:
    for way in milliseconds:
        yield figure(f"start of a stage: {way}", "ms", milliseconds[way])


@dataclass
class _Site:
    """A home whose engines' databases are there, and stores that begin empty."""

    home: Path
    plan: Path
    _num: int = field(default=0, init=False)
    _filled: Path | None = field(default=None, init=False)

    def run_cold(self, turns: int, num_cpus: int) -> dict[str, list[float]]:
        """Return the seconds of each way, by turns; the outcomes must be equal."""
        self._command(self._store())  # makes the databases of Prefect and MLflow
        seconds: dict[str, list[float]] = {way: [] for way in (_OWN, _KEPT, _POOL, _SINGLE)}
        for _ in range(turns):
            outcomes = []
            for way in seconds:
                store = self._store()
                if way == _KEPT:
                    self._filled = store
                with self._server() if way == _KEPT else _nothing() as environment:
                    call = self._call(way, store, environment, num_cpus)
                    seconds[way].append(_timed(call))
                outcomes.append(self._outcome())
            assert all(outcome == outcomes[0] for outcome in outcomes), f"the models differ: {outcomes}"
        return seconds

    def run_cached(self, turns: int) -> tuple[dict[str, list[float]], int]:
        """Return the seconds of each way, by turns, on a store that a cold run filled, and the number of stages."""
        store, pipeline = self._filled, self.home / "pipeline"
        assert store is not None, "nothing ran cold"
        num_stages = make_pipeline(store, pipeline)
        seconds: dict[str, list[float]] = {_OWN: [], _KEPT: [], "dvc": []}
        with self._server() as kept:
            self._command(store, kept)
            for _ in range(turns):
                seconds[_OWN].append(_timed(lambda: self._command(store)))
                seconds[_KEPT].append(_timed(lambda: self._command(store, kept)))
                seconds["dvc"].append(_timed(lambda: reproduce(pipeline)))
        return seconds, num_stages

    def _call(self, way: str, store: Path, environment: dict[str, str], num_cpus: int) -> Callable[[], object]:
        if way in (_OWN, _KEPT):
            return lambda: self._command(store, environment)
        num_processes = num_cpus if way == _POOL else 1
        script = ["benchmarks.plain_pipeline", str(self.plan), str(num_processes), str(self._result)]
        # as many threads as the plan's stages have, which decides both the models and how two processes share two cores
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        return lambda: self._python(script, store, threads)

    def _command(self, store: Path, environment: dict[str, str] | None = None) -> None:
        options = ["--no-rollout", "--json", str(self._result)]
        self._python(["flows.cli", "run", str(self.plan), *options], store, environment or {}, codes=(0, 1))

    def _python(
        self, module: list[str], store: Path, environment: dict[str, str], codes: tuple[int, ...] = (0,)
    ) -> None:
        """Call a module; a run whose gate does not pass (code 1) has done all its stages too."""
        done = subprocess.run(
            [sys.executable, "-m", *module],
            env=os.environ | {"STILLHOUSE_STORE": str(store), "PYTHONPATH": str(ROOT)} | environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in codes, f"{module} ended with code {done.returncode}:\n{done.stdout}{done.stderr}"

    def _outcome(self) -> dict[str, str]:
        """Return the digests of the deployable models that were made last."""
        document: dict[str, Any] = json.loads(self._result.read_text(encoding="utf-8"))
        if "models" in document:
            return dict(document["models"])
        return {one["name"]: one["stages"][-1]["model"]["digest"] for one in document["candidates"]}

    @property
    def _result(self) -> Path:
        return self.home / "outcome.json"

    def _store(self) -> Path:
        self._num += 1
        return self.home / f"store-{self._num}"

    @contextmanager
    def _server(self) -> Iterator[dict[str, str]]:
        """Keep a Prefect server for the block, on the same database; give what addresses it."""
        command = [sys.executable, "-m", "tasks.runtime.prefect_server"]
        with subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as server:
            assert server.stdout is not None
            address = f"http://127.0.0.1:{server.stdout.readline().strip()}/api"
            httpx.get(f"{address}/health", timeout=_READY_WITHIN_S).raise_for_status()
            yield {"PREFECT_API_URL": address}
            assert server.stdin is not None
            server.stdin.close()


@contextmanager
def _nothing() -> Iterator[dict[str, str]]:
    yield {}


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def short_plan() -> Path:
    """Return the plan; where only a share is asked for, a shortened copy of it."""
    share = float(os.environ.get(SHARE_VARIABLE) or 1.0)
    if share >= 1.0:
        return ROOT / _PLAN
    document = yaml.safe_load((ROOT / _PLAN).read_text(encoding="utf-8"))
    path = current_settings().home / "short.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(shortened(document, share), sort_keys=False), encoding="utf-8")
    return path


def shortened(document: Any, share: float) -> Any:
    """Return a plan's document with that share of the epochs, whose teachers need not be good."""
    if isinstance(document, list):
        return [shortened(item, share) for item in document]
    if not isinstance(document, dict):
        return document
    changed = {name: shortened(value, share) for name, value in document.items() if name != "teacher_floor"}
    if "epochs" in changed:
        changed["epochs"] = max(1, round(changed["epochs"] * share))
    if "teacher_floor" in document:
        changed["teacher_floor"] = 0.0
    return changed
