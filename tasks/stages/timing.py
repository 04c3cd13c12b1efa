"""The work of timing all models of a run on one machine."""

import io

import numpy as np

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import InfrastructureError
from tasks.contracts.evaluation import LATENCY_BATCH_SIZES, Machine, Timing, TimingTable
from tasks.contracts.model import ModelRef
from tasks.evaluation.energy import energy_per_row_mj, find_counters
from tasks.evaluation.latency import Samples, quantiles, steady_process, throughput_per_s, time_interleaved
from tasks.evaluation.machine import current_machine
from tasks.evaluation.memory import Footprint, measure_footprints
from tasks.evaluation.runners import Runner, make_runner
from tasks.runtime.services import connect
from tasks.runtime.stores import ArtifactStore
from tasks.stages.splits import load_split

_MAX_PREPARED_PROCESSES = 4


def time_models(models: tuple[ModelRef, ...], data: DatasetRef, machine: Machine, seed: int) -> TimingTable:
    """Measure latency, throughput, memory, cold start and energy of every model, on validation rows.

    Args:
        models: ONNX models, and torch models as the eager reference; one named twice is timed once.
        data: The data set.
        machine: The machine that the figures are asked for; it is in the cache key of this stage.
        seed: For the rows and the order of the models.

    Raises:
        InfrastructureError: this process runs on another machine than `machine`.
        ModelError: a model does not load or run.
    """
    _require_machine(machine)
    services = connect()
    # two measurements at once on one host would share a CPU and measure each other
    with services.host_locks.hold("timing"):
        return _time_models({model.digest: model for model in models}, data, machine, seed, services.artifacts)


def _time_models(
    models: dict[str, ModelRef], data: DatasetRef, machine: Machine, seed: int, artifacts: ArtifactStore
) -> TimingTable:
    x = load_split(artifacts, data, "validation").x
    blobs = [(artifacts.get(digest), model.format) for digest, model in models.items()]
    batch = x[np.arange(max(LATENCY_BATCH_SIZES)) % len(x)]
    footprints = measure_footprints(blobs, batch, num_cpus=min(machine.num_cpus, _MAX_PREPARED_PROCESSES))
    runners = {digest: make_runner(*blob) for digest, blob in zip(models, blobs, strict=True)}
    samples = time_interleaved(runners, x, seed=seed)
    energies = _energies_mj(runners, x)
    return TimingTable(
        machine=machine,
        models={
            digest: _timing(samples[digest], footprint, energies[digest], artifacts)
            for digest, footprint in zip(models, footprints, strict=True)
        },
    )


def _require_machine(machine: Machine) -> None:
    here = current_machine()
    if here == machine:
        return
    asked, found = machine.model_dump(), here.model_dump()
    differing = [f"{name} is {found[name]!r}, not {asked[name]!r}" for name in asked if asked[name] != found[name]]
    raise InfrastructureError(
        f"timing was asked for another machine than it runs on: {'; '.join(differing)}. Figures of two machines are "
        "not comparable; send the stage to the machine that was named, or start the run where its workers are."
    )


def _energies_mj(runners: dict[str, Runner], x: np.ndarray) -> dict[str, float | None]:
    counters = find_counters()
    with steady_process():
        return {digest: energy_per_row_mj(runner, x, counters) for digest, runner in runners.items()}


def _timing(samples: Samples, footprint: Footprint, energy_mj: float | None, artifacts: ArtifactStore) -> Timing:
    return Timing(
        latency_ms={str(batch_size): quantiles(milliseconds) for batch_size, milliseconds in samples.items()},
        throughput_per_s=throughput_per_s(samples),
        peak_memory_bytes=footprint.peak_memory_bytes,
        cold_start_ms=footprint.cold_start_ms,
        energy_mj=energy_mj,
        samples=_store_samples(samples, artifacts),
    )


def _store_samples(samples: Samples, artifacts: ArtifactStore) -> ArtifactRef:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{f"batch_{batch_size}": values for batch_size, values in samples.items()})
    return artifacts.put(buffer.getvalue())
