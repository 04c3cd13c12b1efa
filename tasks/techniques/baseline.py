"""Where the uncompressed model comes from: trained here, or loaded. Imports no torch at its head."""

from typing import Final

from pydantic import Field

from tasks.contracts.model import Architecture
from tasks.contracts.resources import Resources
from tasks.contracts.value import Value
from tasks.techniques.schedule import Schedule

LINEAGE: Final = "lineage"
"""As `WarmStart.weights`: the baseline that the model's champion was made from."""


class WarmStart(Value):
    """Start from the weights of an earlier model of the same architecture instead of drawn ones."""

    weights: str = Field(
        default=LINEAGE,
        min_length=1,
        description="`lineage`: the baseline that the champion of this model was made from; or a place as "
        "`baseline.load` takes it. That model must not have learned from rows of this data set's test split.",
    )
    schedule: Schedule = Field(default=Schedule(), description="How long and how fast, instead of `train.schedule`.")


class TrainSpec(Value):
    """Train the baseline on the train split, from drawn weights or from those of an earlier model."""

    model: Architecture
    schedule: Schedule = Schedule()
    warm_start: WarmStart | None = Field(default=None, description="None: from drawn weights.")
    resources: Resources = Resources()
    num_threads: int = Field(default=1, ge=1, le=256, description="CPU threads; part of the cache key.")

    @property
    def schedule_in_use(self) -> Schedule:
        """The warm start's schedule, or the one for drawn weights."""
        return self.schedule if self.warm_start is None else self.warm_start.schedule


class TrainBaseline(Value):
    """Train the baseline."""

    train: TrainSpec


class LoadBaseline(Value):
    """Load a trained baseline: a file, a Hugging Face model folder, or a model in the store or the registry."""

    load: str = Field(
        min_length=1,
        description="Path of a `.zip` or of a Hugging Face model folder, `sha256:<digest>` in the store, or "
        "`models:/<name>@<alias>` or `models:/<name>/<version>` in the registry.",
    )


Baseline = TrainBaseline | LoadBaseline
