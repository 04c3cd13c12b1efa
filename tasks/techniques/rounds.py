"""The checkpoint of a stage that trains several times: it wraps the training loop's, which knows of one training.

It holds the network at the start of the round, and then what the training loop saved.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.contracts.model import EpochRecord
from tasks.techniques.sections import joined, parted
from tasks.techniques.technique import Checkpoints

_FORMAT = "stillhouse.rounds/3"


@dataclass(frozen=True)
class Round:
    """One round as it starts."""

    number: int
    """From 1."""
    network: bytes
    """The torch artifact that the round starts from."""
    records: tuple[EpochRecord, ...]
    """The epochs of all earlier rounds."""
    facts: Mapping[str, float | int | str] = field(default_factory=dict)
    """What was measured on the way and must not be measured anew, since it might come out otherwise."""


class RoundCheckpoints:
    """The stage's checkpoints as the training of one round sees them."""

    def __init__(self, checkpoints: Checkpoints, current: Round) -> None:
        self._checkpoints = checkpoints
        self._current = current

    def save(self, data: bytes) -> None:
        """Save the training's checkpoint together with the round that it belongs to."""
        self._checkpoints.save(_pack(self._current, data))

    def load(self) -> bytes | None:
        """Return the training's checkpoint if it is of this round and its training has begun."""
        stored = _unpack(self._checkpoints.load())
        if stored is None or stored[0].number != self._current.number:
            return None
        return stored[1] or None


def last_round(checkpoints: Checkpoints) -> Round | None:
    """Return the round in which the stage was interrupted, or None if it is to start anew."""
    stored = _unpack(checkpoints.load())
    return stored[0] if stored else None


def _pack(current: Round, training: bytes) -> bytes:
    facts = {
        "round": current.number,
        "facts": dict(current.facts),
        "records": [record.model_dump(mode="json") for record in current.records],
    }
    return joined(_FORMAT, facts, [current.network, training])


def _unpack(data: bytes | None) -> tuple[Round, bytes] | None:
    """Return the round and the training's checkpoint; None for bytes that are not of this format."""
    return parted(_FORMAT, data, _read)


def _read(facts: dict[str, Any], sections: list[bytes]) -> tuple[Round, bytes]:
    network, training = sections
    records = tuple(EpochRecord.model_validate(record) for record in facts["records"])
    return Round(int(facts["round"]), network, records, dict(facts["facts"])), training
