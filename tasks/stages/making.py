"""What every stage that makes a model has in common: its context, its checkpoint, and storing the outcome."""

import socket
import time
from collections.abc import Callable

from tasks.contracts.data import DatasetRef, SplitName
from tasks.contracts.errors import DataError
from tasks.contracts.model import EpochRecord, ModelFormat, ModelRef, StageResult
from tasks.contracts.value import sha256_hex
from tasks.runtime.isolation import report_progress
from tasks.runtime.services import Services, connect
from tasks.stages.splits import load_split
from tasks.techniques.crew import joined_crew
from tasks.techniques.technique import Applied, Arrays, StageContext


def make_model(
    work: Callable[[StageContext], Applied],
    kind: str,
    gives: ModelFormat,
    data: DatasetRef,
    stage_key: str,
    *,
    seed: int = 0,
    baseline: ModelRef | None = None,
    micro_batch_limit: int | None = None,
    num_workers: int = 1,
) -> StageResult:
    """Give `work` its context, store the model that it made, and drop its checkpoint once that is safe.

    Args:
        work: Makes the model; called once.
        kind: Name of the stage in reports.
        gives: Format of the model.
        data: The data set whose splits the work may read, all but the test split.
        stage_key: Under which checkpoints are kept and found again.
        seed: For everything random in the stage.
        baseline: The torch model that `StageContext.load_baseline` loads.
        micro_batch_limit: Largest batch that is known to fit in memory.
        num_workers: Processes that may train the model together; this may be one of them.
    """
    services = connect()
    history: list[EpochRecord] = []

    def report(record: EpochRecord) -> None:
        history.append(record)
        report_progress(record)

    def load_baseline() -> bytes:
        assert baseline is not None, f"stage {kind} asked for a baseline and was given none"
        return services.artifacts.get(baseline.digest)

    started = time.perf_counter()
    with joined_crew(num_workers) as crew:
        context = StageContext(
            task=data.task,
            input_shape=data.input_shape,
            num_outputs=data.num_outputs,
            vocab_size=data.vocab_size,
            special_tokens=data.special_tokens,
            seed=seed,
            load_split=lambda split: _load_split(services, data, split),
            load_baseline=load_baseline,
            checkpoints=_StageCheckpoints(services, stage_key, writes=crew.leads),
            report=report,
            micro_batch_limit=micro_batch_limit,
            crew=crew,
        )
        applied = work(context)
        crew.require_same(sha256_hex(applied.model))
    seconds = time.perf_counter() - started
    stored = services.artifacts.put(applied.model)
    services.checkpoints.clear(stage_key)
    return StageResult(
        stage_key=stage_key,
        kind=kind,
        model=ModelRef(digest=stored.digest, format=gives, size_bytes=stored.size_bytes),
        seconds=seconds,
        host=socket.gethostname(),
        history=tuple(history),
        details=applied.details,
    )


def _load_split(services: Services, data: DatasetRef, split: SplitName) -> Arrays:
    if split == "test":
        raise DataError("a stage asked for the test split; only the gate may read it, once, at the end")
    return load_split(services.artifacts, data, split)


class _StageCheckpoints:
    """The checkpoints of one stage; of processes that run it together, one writes what all read."""

    def __init__(self, services: Services, stage_key: str, *, writes: bool) -> None:
        self._store = services.checkpoints
        self._key = stage_key
        self._writes = writes

    def save(self, data: bytes) -> None:
        """Replace the checkpoint."""
        if self._writes:
            self._store.save(self._key, data)

    def load(self) -> bytes | None:
        """Return the last checkpoint, if there is a whole one."""
        return self._store.load(self._key)
