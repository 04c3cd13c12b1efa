"""A stage that trains several networks one after another, and its checkpoint.

It holds the networks that are done, and then what the training loop saved of the one that is being trained.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tasks.contracts.model import EpochRecord
from tasks.techniques.loss import Loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.sections import joined, parted
from tasks.techniques.technique import Arrays, Checkpoints, StageContext
from tasks.techniques.training import fit

if TYPE_CHECKING:
    from tasks.models.architecture import Network

_FORMAT = "stillhouse.parts/2"


@dataclass(frozen=True)
class Progress:
    """How far the stage is: the part that is being trained comes after these."""

    networks: tuple[bytes, ...] = ()
    """The torch artifacts of the finished parts."""
    records: tuple[EpochRecord, ...] = ()
    """Their epochs."""


class PartCheckpoints:
    """The stage's checkpoints as the training of one part sees them."""

    def __init__(self, checkpoints: Checkpoints, done: Progress) -> None:
        self._checkpoints = checkpoints
        self._done = done

    def save(self, data: bytes) -> None:
        """Save the training's checkpoint together with the parts before it."""
        self._checkpoints.save(_pack(self._done, data))

    def load(self) -> bytes | None:
        """Return the training's checkpoint if it is of this part."""
        stored = _unpack(self._checkpoints.load())
        return stored[1] if stored and len(stored[0].networks) == len(self._done.networks) else None


def last_progress(checkpoints: Checkpoints) -> Progress:
    """Return the parts that were done when the stage was interrupted; none if it is to start anew."""
    stored = _unpack(checkpoints.load())
    return stored[0] if stored else Progress()


def train_part(
    network: "Network",
    rows: Arrays,
    loss: Loss,
    schedule: Schedule,
    context: StageContext,
    done: Progress,
    device: str,
) -> Progress:
    """Train `network` in place as the part that comes after `done`, and return the progress with it.

    An interrupted stage that calls this with its `last_progress` goes on within the part.

    Raises:
        TechniqueError: training diverged, or cannot start.
    """
    records: list[EpochRecord] = []

    def report(record: EpochRecord) -> None:
        records.append(record)
        context.report(record)

    checkpoints = PartCheckpoints(context.checkpoints, done)
    surroundings = replace(context, checkpoints=checkpoints, report=report)
    fit(network.module, rows, loss, schedule, surroundings, first_step=1 + len(done.records), device=device)
    return Progress((*done.networks, network.to_bytes()), (*done.records, *records))


def _pack(done: Progress, training: bytes) -> bytes:
    facts = {"records": [record.model_dump(mode="json") for record in done.records]}
    return joined(_FORMAT, facts, [*done.networks, training])


def _unpack(data: bytes | None) -> tuple[Progress, bytes] | None:
    """Return the finished parts and the training's checkpoint; None for bytes that are not of this format."""
    return parted(_FORMAT, data, _read)


def _read(facts: dict[str, Any], sections: list[bytes]) -> tuple[Progress, bytes]:
    *networks, training = sections
    records = tuple(EpochRecord.model_validate(record) for record in facts["records"])
    return Progress(tuple(networks), records), training
