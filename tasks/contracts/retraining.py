"""A retraining: why a model is trained anew, and against whom the outcome has to prove itself."""

from typing import Final

from tasks.contracts.model import ModelRef
from tasks.contracts.value import Digest, Slug, Value

REASON_TAG: Final = "stillhouse.retraining_reason"
"""Tag of a registered version that came from a retraining: why it was started."""
CHAMPION_TAG: Final = "stillhouse.retraining_champion"
"""Tag of such a version: the ONNX artifact that was champion then, and that the gate held it against."""


class Retraining(Value):
    """What a run is told that trains a model anew."""

    model_name: Slug
    reason: str
    champion: ModelRef
    """The ONNX model that serves when the retraining starts."""

    @property
    def lineage(self) -> dict[str, str]:
        """What a version that comes from it says of it."""
        return {REASON_TAG: self.reason, CHAMPION_TAG: self.champion.digest}


class RetrainingEntry(Value):
    """One retraining in the record of a model."""

    plan: str
    reason: str
    champion: Digest
    data_revision: str
    """Of the published data set."""
    started_at: str
    """UTC, ISO 8601."""
    outcome: str | None = None
    """`promoted`, `not promoted: …`, `failed: …`; None while it runs, or if its process died."""


class RetrainingRecord(Value):
    """All retrainings of a model, oldest first."""

    entries: tuple[RetrainingEntry, ...] = ()
