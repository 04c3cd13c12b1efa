"""What every cached stage has in common: the Prefect options, the isolated process, progress, healing."""

import inspect
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import exponential_backoff
from prefect.transactions import get_transaction

from tasks.contracts.errors import InfrastructureError, OutOfMemoryError, TechniqueError
from tasks.contracts.model import EpochRecord
from tasks.contracts.resources import NOTHING_SPECIAL, Resources
from tasks.contracts.value import Slug
from tasks.runtime.caching import Sources, StageCachePolicy, StageRecords, require_stage_lock
from tasks.runtime.placement import run_placed
from tasks.runtime.progress import ProgressArtifact
from tasks.runtime.services import connect

P = ParamSpec("P")
R = TypeVar("R")

_NUM_RETRIES = 4
_NUM_RETRIES_OF_EFFECTS = 6
"""Pauses of 2 s to 64 s, halved by jitter at most: a service that restarts for a minute is waited for."""
_INFERENCE_BATCH = 256
"""Halving begins here where a training's batch is smaller: stages also show networks rows without training them."""
_logger = logging.getLogger(__name__)


def heals(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Tell whether a retry can help: infrastructure yes; bad data, bad plan and defects never."""
    return isinstance(state.result(raise_on_failure=False), InfrastructureError)


def stage_task(
    sources: Sources, ignore: tuple[str, ...] = (), run_name: str | None = None
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function a cached, retryable stage.

    Args:
        sources: From the inputs to the modules that the stage executes; their source is in the key.
        ignore: Inputs that do not change the outcome and stay out of the key.
        run_name: Template for the name of a run, from the inputs.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        stage: Task[P, R] = task(
            task_run_name=run_name,
            cache_policy=StageCachePolicy(sources, ignore),
            persist_result=True,
            result_serializer="json",
            cache_result_in_memory=True,
            retries=_NUM_RETRIES,
            retry_delay_seconds=exponential_backoff(backoff_factor=2),
            retry_jitter_factor=0.5,
            retry_condition_fn=heals,
        )(function)
        # set here, since the decorator takes only blocks that are saved on a Prefect server
        stage.result_storage = StageRecords()
        return stage

    return decorate


def effect_task(function: Callable[P, R]) -> Task[P, R]:
    """Make a function a task with an effect outside: idempotent, retried when that can help, never cached."""
    return task(
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=_NUM_RETRIES_OF_EFFECTS,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=heals,
    )(function)


def run_stage(
    work: Callable[..., R],
    *,
    resources: Resources = NOTHING_SPECIAL,
    num_threads: int = 1,
    target: Slug | None = None,
    at_home: bool = False,
    **arguments: Any,
) -> R:
    """Run a stage's work in its own process; it is told the running task's key if it asks for `stage_key`.

    With `at_home` the process runs on the flow's machine, because the work reads or writes files that are there alone:
    the project's data, what the user named by a path, Data Docs.

    Raises:
        LockLostError: another worker took the stage over meanwhile; what was made here does not count.
    """
    if "stage_key" in inspect.signature(work).parameters:
        arguments["stage_key"] = _current_key()
    services = connect()
    made = run_placed(
        services.home_placement if at_home else services.placement,
        work,
        resources=resources,
        num_threads=num_threads,
        target=target,
        modules=_current_modules(),
        **arguments,
    )
    require_stage_lock()
    return made


def run_training_stage(
    work: Callable[..., R],
    *,
    resources: Resources,
    num_threads: int,
    planned_epochs: int,
    batch_size: int,
    label: str,
    **arguments: Any,
) -> R:
    """As `run_stage`, with progress shown, and with smaller and smaller micro-batches when memory runs out.

    Args:
        work: takes `stage_key` and `micro_batch_limit` besides the arguments.
        resources: of the stage.
        num_threads: of its process.
        planned_epochs: that it will report.
        batch_size: largest of its trainings; 0 where nothing trains.
        label: of its progress.
        arguments: of `work`, by name.

    Raises:
        LockLostError: another worker took the stage over; this is noticed after the epoch, not only at the end.
    """
    progress = ProgressArtifact(label, planned_epochs)

    def on_progress(record: Any) -> None:
        require_stage_lock(ask=False)
        progress.show(EpochRecord.model_validate(record))

    limit: int | None = None
    while True:
        try:
            made = run_placed(
                connect().placement,
                work,
                resources=resources,
                num_threads=num_threads,
                modules=_current_modules(),
                stage_key=_current_key(),
                micro_batch_limit=limit,
                on_progress=on_progress,
                **arguments,
            )
            require_stage_lock()
            return made
        except OutOfMemoryError as error:
            limit = (limit or max(batch_size, _INFERENCE_BATCH)) // 2
            if limit < 1:
                raise TechniqueError(
                    f"{label} runs out of memory even with one row at a time ({error}); "
                    "use a smaller model, or a worker with more memory"
                ) from error
            _logger.warning("%s ran out of memory (%s); trying again with at most %d rows at once", label, error, limit)


def _current_modules() -> list[str]:
    """Return what the running task executes; nothing where there is no task (a direct call)."""
    context = TaskRunContext.get()
    policy = context.task.cache_policy if context else None
    return policy.modules_of(context.parameters) if context and isinstance(policy, StageCachePolicy) else []


def _current_key() -> str:
    """Return the cache key of the running task; a name of its own where there is no cache (a direct call)."""
    transaction = get_transaction()
    if transaction is not None and transaction.key:
        return str(transaction.key)
    context = TaskRunContext.get()
    return f"uncached/{context.task_run.id}" if context else "uncached/direct"
