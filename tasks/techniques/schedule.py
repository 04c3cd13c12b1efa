"""How long and how fast to train."""

import math
from typing import Annotated, Literal

from pydantic import Field

from tasks.contracts.value import Value
from tasks.techniques.augmentation import Augmentation
from tasks.techniques.precision import Precision


class Schedule(Value):
    """How long and how fast to train."""

    epochs: int = Field(default=20, ge=1, le=100_000, description="Passes over the train split.")
    batch_size: int = Field(default=64, ge=2, le=1_048_576, description="Rows per optimizer step.")
    optimizer: Literal["sgd", "adamw"] = Field(
        default="adamw", description="`sgd` uses Nesterov momentum 0.9; `adamw` decouples weight decay."
    )
    learning_rate: float = Field(default=3e-3, gt=0, le=10, description="Peak, reached at the end of the warm-up.")
    weight_decay: float = Field(
        default=1e-2, ge=0, le=1, description="Applied to matrices and kernels, not to biases and norm scales."
    )
    warmup_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="Share of all steps with linear warm-up; the rest falls by a cosine to 0."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Probability mass that label targets spread evenly over all classes."
    )
    augmentation: Augmentation = Field(default=Augmentation(), description="Random views of the training rows.")
    channels_last: bool | Literal["auto"] = Field(
        default=False,
        description="Keep images in NHWC order while training; wide convolutions run faster on CPUs. `auto`: as a "
        "probe on the device that trains finds.",
    )
    precision: Precision = Field(
        default="float32",
        description="`bfloat16` trains in mixed precision, which can be faster where the processor has its "
        "instructions; thin networks may gain nothing. Weights, batch statistics and losses stay in float32. `auto`: "
        "as a probe on the device that trains finds.",
    )
    compile: bool | Literal["auto"] = Field(
        default=False,
        description="Train by kernels that `torch.compile` makes for the network: faster steps after a minute or so. "
        "Needs a C++ compiler on the worker. `auto`: as a probe finds, which weighs that minute against the steps.",
    )
    micro_batch: Annotated[int, Field(ge=2, le=1_048_576)] | Literal["auto"] | None = Field(
        default=None,
        description="Rows that pass through the network at once; their gradients are added up to those of "
        "`batch_size`, while batch norm sees these rows alone. Without it, the whole batch. `auto`: as a probe on the "
        "device that trains finds; the largest that fits, unless a smaller one is faster.",
    )
    checkpoint_every: int = Field(default=5, ge=1, description="Epochs between checkpoints; the last is always saved.")

    def learning_rate_at(self, step: int, num_steps: int) -> float:
        """Return the learning rate of optimizer step `step` (from 0) of `num_steps`.

        Linear warm-up to the peak, then a cosine to 0 (one cycle; Loshchilov & Hutter 2017 without
        restarts). A pure function of the step, so that a resumed run needs no scheduler state.
        """
        num_warmup = round(self.warmup_fraction * num_steps)
        if step < num_warmup:
            return self.learning_rate * (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
