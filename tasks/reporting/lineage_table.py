"""Where everything came from: names and digests that lead back from the outcome."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.contracts.run import RunDossier

_DIGEST = re.compile(r"\b[0-9a-f]{32,64}\b")
_PREFIX = "stillhouse."
_STAGES = "stages."


@dataclass(frozen=True)
class Part:
    """A piece of a value: a digest, or the text between digests."""

    text: str
    is_digest: bool


@dataclass(frozen=True)
class Origin:
    """One line of the table."""

    name: str
    parts: tuple[Part, ...]


def make_lineage(dossier: RunDossier) -> tuple[Origin, ...]:
    """Return the run's own identities and all that its lineage names."""
    record = dossier.record
    named = {
        "run": record.run_id,
        "baseline, torch": dossier.baseline_stage.model.digest,
        "baseline, ONNX": record.baseline.model.digest,
    }
    named |= {_name(key): value for key, value in dossier.lineage.items()}
    for name, candidate in dossier.candidates.items():
        if candidate.gate is not None:
            named[f"gate report of {name}"] = candidate.gate.artifact.digest
    return tuple(Origin(name, tuple(split_digests(value))) for name, value in named.items() if value)


def split_digests(text: str) -> Iterator[Part]:
    """Split a text into digests and what stands between them."""
    position = 0
    for match in _DIGEST.finditer(text):
        if match.start() > position:
            yield Part(text[position : match.start()], is_digest=False)
        yield Part(match.group(), is_digest=True)
        position = match.end()
    if position < len(text):
        yield Part(text[position:], is_digest=False)


def _name(key: str) -> str:
    plain = key.removeprefix(_PREFIX)
    return f"stages of {plain.removeprefix(_STAGES)}" if plain.startswith(_STAGES) else plain.replace("_", " ")
