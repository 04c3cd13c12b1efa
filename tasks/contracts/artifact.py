"""Content-addressed artifacts: where the bytes of a digest lie in any store."""

from tasks.contracts.value import Digest, Value


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
