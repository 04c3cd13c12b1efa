"""Where the uncompressed model comes from: trained here, or loaded. Imports no torch at its head."""

from pydantic import Field

from tasks.contracts.model import Architecture
from tasks.contracts.value import Value
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Resources


class TrainSpec(Value):
    """Train the baseline from scratch."""

    model: Architecture
    schedule: Schedule = Schedule()
    resources: Resources = Resources()
    num_threads: int = Field(default=1, ge=1, le=256, description="CPU threads; part of the cache key.")


class TrainBaseline(Value):
    """Train the baseline from scratch."""

    train: TrainSpec


class LoadBaseline(Value):
    """Load a trained baseline: a file, a Hugging Face model folder, or a model in the store or the registry."""

    load: str = Field(
        min_length=1,
        description="Path of a `.zip` or of a Hugging Face model folder, `sha256:<digest>` in the store, or "
        "`models:/<name>@<alias>` or `models:/<name>/<version>` in the registry.",
    )


Baseline = TrainBaseline | LoadBaseline
