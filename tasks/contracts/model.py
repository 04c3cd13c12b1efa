"""Identity of models and of what a stage made of them."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.value import Digest, Value

ModelFormat = Literal["torch", "onnx"]

ImportPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""`package.module:name`, as in entry points."""


class Surgery(Value):
    """A structural change of a module that can be replayed when the module is rebuilt."""

    function: ImportPath
    """A function marked with `tasks.models.architecture.surgery`."""
    arguments: dict[str, Any]
    """JSON values, passed by name."""


class Architecture(Value):
    """How to build an untrained module: call `factory` with `kwargs`, then replay `surgeries`."""

    factory: ImportPath
    """A `torch.nn.Module` class, or a function annotated to return one. Users bring their own."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """JSON values. `input_shape`, `num_outputs`, and for texts `vocab_size` and `pad`, come from the data where the
    factory takes them."""
    surgeries: tuple[Surgery, ...] = ()


class ModelRef(Value):
    """A model in the artifact store.

    `torch` is a zip of `architecture.json` and `weights.safetensors`; `onnx` is one ONNX file.
    """

    digest: Digest
    format: ModelFormat
    size_bytes: int

    @property
    def artifact(self) -> ArtifactRef:
        """The stored blob."""
        return ArtifactRef(digest=self.digest, size_bytes=self.size_bytes)


class EpochRecord(Value):
    """Means over one epoch of training."""

    step: int
    """Position on the stage's own time axis: epochs done since the stage began, from 1."""
    metrics: dict[str, float]


class UsageSample(Value):
    """What was used of the machine at one moment of a stage, under MLflow's names for it."""

    at_s: float
    """Seconds since the stage's process began."""
    metrics: dict[str, float]
    """`cpu_utilization_percentage` of the machine, `stage_cpu_percentage` (100 is one core), `gpu_0_...`, and so on."""


class StageResult(Value):
    """What one stage made: cached under the stage key, never changed."""

    stage_key: str
    kind: str
    """The technique's `kind`, or `train`, `load`, `export`."""
    model: ModelRef
    seconds: float
    """Wall time of the computation itself, when it was computed."""
    host: str = ""
    """Name of the machine that computed it; empty in records from before it was noted."""
    history: tuple[EpochRecord, ...] = ()
    details: dict[str, float | int | str] = Field(default_factory=dict)
    """Facts that the stage wants shown: channels removed, calibration rows, warnings."""
    usage: tuple[UsageSample, ...] = ()
    """Of the machine that computed it, in order; empty for a stage of less than a second."""
