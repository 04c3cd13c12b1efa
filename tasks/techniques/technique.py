"""What every compression technique is: a frozen spec that says what it takes, gives and needs, and `apply`.

A technique module must not import torch or onnxruntime at its head (a test proves it): plans are
validated, listed and cached by processes that never load a tensor. Import them where they are used.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
from pydantic import Field

from tasks.contracts.data import SpecialTokens, SplitName, Task
from tasks.contracts.model import Architecture, EpochRecord, ModelFormat
from tasks.contracts.resources import Resources
from tasks.contracts.value import Value
from tasks.techniques.crew import Crew

Invariant = Literal["sparsity", "shared_weights", "low_rank"]
"""What one stage gives a model and a later one must not take away unnoticed: weights that are zero under a
mask, weights that take few values, and layers split into thinner ones."""

IncomingWeights = Literal["any", "float", "int8"]

ALL_INVARIANTS: frozenset[Invariant] = frozenset(get_args(Invariant))


@dataclass(frozen=True)
class Arrays:
    """One split in memory: `x` [N, *input_shape] and `y` [N]."""

    x: np.ndarray
    y: np.ndarray


class Checkpoints(Protocol):
    """The checkpoint of the running stage."""

    def save(self, data: bytes) -> None:
        """Replace the checkpoint, atomically."""
        ...

    def load(self) -> bytes | None:
        """Return the last checkpoint of this very stage (same inputs, spec, code and seed), or None."""
        ...


@dataclass(frozen=True)
class StageContext:
    """What a stage may use besides the model that it is given."""

    task: Task
    input_shape: tuple[int, ...]
    """Shape of one row of `x`, without the batch axis."""
    num_outputs: int
    seed: int
    load_split: Callable[[SplitName], Arrays]
    """Loads a split; the test split is refused with a DataError."""
    load_baseline: Callable[[], bytes]
    """Loads the run's baseline (the teacher) as a torch artifact."""
    checkpoints: Checkpoints
    report: Callable[[EpochRecord], None]
    """Tells the user, and the stage's history, how an epoch went."""
    vocab_size: int | None = None
    """Token ids in `x` lie in [0, vocab_size); None for rows that are no texts."""
    special_tokens: SpecialTokens | None = None
    """None for rows that are no texts."""
    micro_batch_limit: int | None = None
    """Largest batch that fits in memory, known after running out of it; gradients are accumulated."""
    crew: Crew = field(default_factory=Crew)
    """The processes that train the stage's model together."""


@dataclass(frozen=True)
class Applied:
    """What a technique made: a model in the format that it `gives`, and facts worth showing."""

    model: bytes
    details: dict[str, float | int | str] = field(default_factory=dict)


class TechniqueSpec(Value):
    """Base of all specs. A subclass sets `kind: Literal["..."] = "..."`, the class variables, and `apply`."""

    summary: ClassVar[str]
    """One line for `stillhouse techniques` and the docs."""
    takes: ClassVar[ModelFormat]
    gives: ClassVar[ModelFormat]
    establishes: ClassVar[frozenset[Invariant]] = frozenset()
    """What the technique gives to the model."""
    keeps: ClassVar[frozenset[Invariant]] = frozenset()
    """What of an incoming model's invariants survives it, proved by a test. A plan whose chain would lose one is
    refused before any work."""

    takes_weights: ClassVar[IncomingWeights] = "any"
    """What the weights of an incoming ONNX model must be. A plan whose chain cannot give that is refused before any
    work."""
    gives_int8: ClassVar[bool] = False
    """Whether the model that it gives computes in int8."""

    example_model: ClassVar[Architecture | None] = None
    """A tiny network for images [1, 8, 8] and 3 classes that the technique works on, where not any will do."""
    example_before: ClassVar[tuple[dict[str, Any], ...]] = ()
    """Techniques, as in a plan, whose outcome it works on, where not any model of its format will do."""

    kind: str
    resources: Resources = Resources()
    num_threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="CPU threads of the stage. Part of the cache key: the order of sums depends on it.",
    )

    @property
    def planned_epochs(self) -> int:
        """How many `EpochRecord`s the stage reports at most; 0 for a technique that does not train.

        Exactly so many, except where what is found on the way makes training unnecessary.
        """
        return 0

    @property
    def trains_in_parallel(self) -> bool:
        """Whether several processes may run the stage together, all coming to the same outcome.

        They do where nothing but the training loop depends on time, or on counts of what one process has seen.
        """
        return False

    @property
    def starts_over(self) -> bool:
        """Whether the incoming model is thrown away, as by a student that is built from scratch."""
        return False

    @abstractmethod
    def apply(self, model: bytes, context: StageContext) -> Applied:
        """Compress `model`, an artifact of format `takes`, into one of format `gives`.

        Deterministic for equal arguments. Long loops save checkpoints and start from the last one.

        Raises:
            TechniqueError: the technique cannot be applied to this model; the message says why and what to do.
        """
