"""The base of every contract: a frozen value with one canonical form and therefore one digest."""

import hashlib
import json
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hexadecimal."""

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""A name that is safe in file names, aliases, artifact keys and URLs."""


_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class Value(BaseModel):
    """A frozen record that rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def canonical_json(self) -> bytes:
        """Serialise with sorted keys and no white space, so that equal values give equal bytes."""
        document = self.model_dump(mode="json")
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    def value_digest(self) -> Digest:
        """Return the SHA-256 of the canonical form."""
        return sha256_hex(self.canonical_json())


def digests_in(data: bytes) -> set[Digest]:
    """Return everything in a text that could be a digest; what only looks like one is told from none by its absence."""
    return {found.decode() for found in _DIGEST.findall(data)}


def sha256_hex(data: bytes) -> Digest:
    """Return the SHA-256 of `data` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()
