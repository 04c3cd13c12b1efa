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
    """In which number format and order of memory, by which kernels and how many rows at once a network trains."""

    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    micro_batch: int | None = None
    """Rows that pass through the network at once; None for the whole batch."""

    @property
    def label(self) -> str:
        """Name in tables: `float32`, or `bfloat16, channels last, compiled, 32 rows at once`."""
        words = [
            self.precision,
            "channels last" if self.channels_last else "",
            "compiled" if self.compile else "",
            f"{self.micro_batch} rows at once" if self.micro_batch else "",
        ]
        return ", ".join(filter(None, words))


class FormCost(Value):
    """What a form of training takes."""

    step_ms: float
    """Median milliseconds of an optimizer step."""
    setup_ms: float = 0.0
    """Milliseconds until the first step is as fast as the later ones: compiling."""

    def ms_of(self, num_steps: int) -> float:
        """Return the milliseconds of a training of so many steps."""
        return self.setup_ms + num_steps * self.step_ms


class ProbedForms(Value):
    """What a probe found."""

    device: Device
    chosen: TrainingForm
    costs: dict[str, FormCost]
    """By `TrainingForm.label`, in the order in which they were tried."""
    refused: dict[str, str] = Field(default={})
    """Forms that could not be run, with the reason."""
