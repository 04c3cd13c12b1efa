"""Where networks are trained, and the form of training that is fastest there."""

from typing import Literal

from pydantic import Field

from tasks.contracts.evaluation import Machine
from tasks.contracts.value import Value


class Device(Value):
    """Fingerprint of what a training stage computes on: forms are chosen for one fingerprint only."""

    machine: Machine
    gpu: str | None
    """Name and compute capability of the GPU; None where the stage trains on the processor."""


class TrainingForm(Value):
    """In which number format and order of memory a network trains."""

    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False

    @property
    def label(self) -> str:
        """Name in tables: `float32`, or `bfloat16, channels last`."""
        return f"{self.precision}, channels last" if self.channels_last else self.precision


class ProbedForms(Value):
    """What a probe found."""

    device: Device
    chosen: TrainingForm
    step_ms: dict[str, float]
    """Median milliseconds of an optimizer step, keyed by `TrainingForm.label`."""
    refused: dict[str, str] = Field(default={})
    """Forms that could not be run, with the reason."""
