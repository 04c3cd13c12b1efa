"""Peak memory and cold start of models, each measured in fresh processes of its own."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from tasks.contracts.errors import ModelError, WorkerLostError
from tasks.contracts.model import Architecture, ModelFormat
from tasks.evaluation import footprint

_NUM_STARTS: dict[ModelFormat, int] = {"onnx": 3, "torch": 1}
"""Fresh processes per model. Importing torch costs seconds each time, and torch is only the reference."""

_WARM_UP_GRAPH = """
<ir_version: 10, opset_import: ["" : 21]>
warm_up (float[batch, 1] input) => (float[batch, 1] output) { output = Identity (input) }
"""
_WARM_UP_NETWORK = Architecture(factory="torch.nn:Linear", kwargs={"in_features": 1, "out_features": 1})


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a model costs before it has answered much."""

    peak_memory_bytes: int
    """Growth of the process's peak resident memory by loading and running the model."""
    cold_start_ms: float
    """From the model's bytes to its first answer, in a runtime that is up."""


@dataclass(frozen=True)
class _Job:
    """A model to be started."""

    model_format: ModelFormat
    model: Path


def measure_footprints(
    models: Sequence[tuple[bytes, ModelFormat]], rows: np.ndarray, *, num_cpus: int = 1
) -> list[Footprint]:
    """Start every model in fresh processes and return its medians.

    Args:
        models: Artifacts with their formats.
        rows: [B, *input_shape]; the first answer is for one row, the following for all.
        num_cpus: Processes that get ready side by side; only one at a time is measured.

    Returns:
        One footprint per model, in order.

    Raises:
        ModelError: a model cannot be loaded or run.
        WorkerLostError: a process was killed.
    """
    with tempfile.TemporaryDirectory(prefix="stillhouse-footprint-") as name:
        folder = Path(name)
        np.save(folder / "rows.npy", rows)
        jobs = [_Job(model_format, folder / f"model-{index}") for index, (_, model_format) in enumerate(models)]
        for job, (model, _) in zip(jobs, models, strict=True):
            job.model.write_bytes(model)
        for model_format in {job.model_format for job in jobs}:
            (folder / f"warm-up.{model_format}").write_bytes(_warm_up_model(model_format))
        # in rounds over the models, so that a slow moment of the machine does not meet all starts of one
        rounds = range(max(_NUM_STARTS.values()))
        starts = [job for number in rounds for job in jobs if number < _NUM_STARTS[job.model_format]]
        turn = threading.Lock()
        with ThreadPoolExecutor(max_workers=num_cpus) as pool:
            measured = list(pool.map(lambda job: _start(job, folder, turn), starts))
    return [_median([each for start, each in zip(starts, measured, strict=True) if start == job]) for job in jobs]


def _start(job: _Job, folder: Path, turn: threading.Lock) -> Footprint:
    command = [sys.executable, "-m", footprint.__name__, job.model_format, str(job.model)]
    command += [str(folder / f"warm-up.{job.model_format}"), str(folder / "rows.npy")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+", errors="replace") as complaints,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=complaints, env=environment, text=True) as process,
    ):
        assert process.stdout is not None
        ready = process.stdout.readline()
        with turn:
            answer, _ = process.communicate("go\n" if ready else None)
        complaints.seek(0)
        _require_success(process.returncode, complaints.read())
    return Footprint(**json.loads(answer))


def _require_success(code: int, complaints: str) -> None:
    if code < 0:
        raise WorkerLostError(
            f"the process that measured a model's memory was killed by signal {-code}; "
            "9 is often the kernel's out-of-memory killer"
        )
    if code:
        reason = complaints.strip().rpartition("\n")[2]
        raise ModelError(f"a model cannot be loaded and run in a fresh process: {reason}")


def _median(starts: list[Footprint]) -> Footprint:
    return Footprint(
        peak_memory_bytes=round(median(start.peak_memory_bytes for start in starts)),
        cold_start_ms=median(start.cold_start_ms for start in starts),
    )


def _warm_up_model(model_format: ModelFormat) -> bytes:
    """Return a model from [B, 1] to [B, 1] that does next to nothing."""
    if model_format == "torch":
        from tasks.models.architecture import Network

        return Network.create(_WARM_UP_NETWORK, seed=0).to_bytes()
    return bytes(onnx.parser.parse_model(_WARM_UP_GRAPH).SerializeToString())
