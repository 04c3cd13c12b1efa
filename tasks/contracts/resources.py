"""What a stage asks of the machine that runs it."""

from typing import Final

from pydantic import Field

from tasks.contracts.value import Slug, Value


class Resources(Value):
    """What a stage asks of the worker that runs it. One machine gives what it has; a cluster chooses a worker by it."""

    num_gpus: float = Field(default=0.0, ge=0.0, description="GPUs of each process, fractions allowed.")
    num_workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes, each with these GPUs and threads, that may train one model together. Batches are "
        "divided into so many shards also where fewer processes run.",
    )
    memory_gib: float = Field(
        default=0.0, ge=0.0, description="Memory that a worker must have free for the stage, GiB; 0: any."
    )
    custom: dict[Slug, float] = Field(
        default={}, description="Resources of your own naming that a worker must offer, and how much of each."
    )
    timeout_s: float = Field(default=6 * 3600.0, gt=0.0, description="Seconds after which the stage is killed.")


NOTHING_SPECIAL: Final = Resources(timeout_s=3600.0)
"""What a stage asks that neither trains nor compresses."""
