"""What a signature of a model says, and where it lies in any store.

A signature is a document of its own for every (model name, artifact, key), named by
`signature_document`, so that the keys of a rotation stand beside each other and a reader that knows
which keys it trusts need not list anything.
"""

from typing import Annotated, Literal

from pydantic import StringConstraints

from tasks.contracts.value import Digest, Slug, Value

KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""First 16 hexadecimal digits of the SHA-256 of the 32 bytes of a public key. It finds a key and proves nothing."""

_CONTEXT = b"stillhouse model signature\x00"
"""Begins everything that is signed, so that a signature made for another purpose is never one of a model."""


class SignedStatement(Value):
    """What the holder of a key vouches for: this artifact may be served under this name."""

    version: Literal[1] = 1
    """Of the statement's form."""
    model_name: Slug
    digest: Digest

    def signed_bytes(self) -> bytes:
        """Return the bytes that are signed: a context, then the canonical form."""
        return _CONTEXT + self.canonical_json()


class ModelSignatureDocument(Value):
    """A detached Ed25519 signature of a statement, as it is stored."""

    statement: SignedStatement
    algorithm: Literal["ed25519"] = "ed25519"
    key_id: KeyId
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
    """64 bytes in hexadecimal, which unlike base64 has one form only."""


def signature_folder(model_name: str, digest: Digest) -> str:
    """Return the prefix of the names of all signature documents of an artifact under a model's name."""
    return f"signatures/{model_name}/{digest}"


def signature_document(model_name: str, digest: Digest, key_id: str) -> str:
    """Return the name of the document that holds the signature by one key; its newest version counts."""
    return f"{signature_folder(model_name, digest)}/{key_id}"
