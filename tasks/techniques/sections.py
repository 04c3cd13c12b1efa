"""A checkpoint that is made of several: a JSON header, then byte strings one after another.

Layout: 8 bytes with the length of the header (little-endian), the header with the lengths of the byte strings, and
the byte strings.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Content = TypeVar("Content")

logger = logging.getLogger(__name__)

_LENGTH_BYTES = 8


def joined(form: str, facts: Mapping[str, Any], sections: Sequence[bytes]) -> bytes:
    """Join byte strings and JSON facts about them; `form` names what is stored, with its version."""
    header = {"format": form, "lengths": [len(section) for section in sections], "facts": dict(facts)}
    encoded = json.dumps(header).encode()
    return b"".join([len(encoded).to_bytes(_LENGTH_BYTES, "little"), encoded, *sections])


def parted(form: str, data: bytes | None, read: Callable[[dict[str, Any], list[bytes]], Content]) -> Content | None:
    """Return what `read` makes of the facts and the byte strings; None for bytes that are not of this form.

    A checkpoint that cannot be read costs the work since the stage began and nothing else, so it is told and not
    raised. `read` may raise ValueError, KeyError or TypeError for facts that it does not understand.
    """
    if data is None:
        return None
    position = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    try:
        header = json.loads(data[_LENGTH_BYTES:position])
        if header["format"] != form:
            raise ValueError(f"its format is {header['format']!r} instead of {form!r}")
        sections = []
        for length in header["lengths"]:
            sections.append(data[position : position + length])
            position += length
        if position != len(data):
            raise ValueError(f"its header tells of {position} bytes")
        return read(header["facts"], sections)
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("the checkpoint of %d bytes is ignored and the stage starts anew: %s", len(data), error)
        return None
