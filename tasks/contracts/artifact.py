"""Content-addressed artifacts: where the bytes of a digest lie in any store."""

import re

from tasks.contracts.errors import UserError
from tasks.contracts.value import Digest, Value, sha256_hex

_DOCUMENT_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$")

FRESH_FOR_S = 12 * 3600.0
"""A file that is written again, or that a cached stage rests on again, is made young if it is older than this."""


class ArtifactRef(Value):
    """An immutable blob in the artifact store."""

    digest: Digest
    size_bytes: int


def artifact_key(digest: Digest) -> str:
    """Return the store key of a digest, relative to the store's root.

    Two levels keep directories small: 65,536 prefixes hold millions of artifacts.
    """
    return f"sha256/{digest[:2]}/{digest[2:4]}/{digest}"


def document_key(name: str, version: int) -> str:
    """Return the store key of one version of a named document, relative to the store's root."""
    return f"documents/{name}/{version:08d}.json"


def record_key(stage_key: str) -> str:
    """Return the store key of the record of a stage."""
    return f"stages/{stage_key}.json"


def checkpoint_key(stage_key: str) -> str:
    """Return the store key of the last checkpoint of a stage."""
    return f"checkpoints/{sha256_hex(stage_key.encode())}"


def acknowledgement_folder(model_name: str) -> str:
    """Return the prefix under which gateways say what they serve of a model, `<replica>.json` each."""
    return f"acknowledgements/{model_name}/"


def checked_document_name(name: str) -> str:
    """Return `name`.

    Raises:
        UserError: it could leave the store, or is spelt in two ways.
    """
    if not _DOCUMENT_NAME.match(name):
        raise UserError(f"document name {name!r} is not allowed; use lower-case words, digits, '-', '_', '.' and '/'")
    return name
