"""How the bytes of an artifact lie in a store: as they are, or as a Zstandard frame (RFC 8878).

Either lies under the digest of the artifact itself, which tells on reading what the stored bytes are.
"""

from typing import Literal

from tasks.contracts.value import Digest, sha256_hex

StoreCompression = Literal["none", "zstd"]

_ZSTD_MAGIC = bytes.fromhex("28b52ffd")
_ZSTD_LEVEL = 9
"""Near the best ratio for weights, at tens of megabytes a second."""


def stored_form(data: bytes, compression: StoreCompression) -> bytes:
    """Return what a store writes for the artifact `data`."""
    if compression == "none":
        return data
    import pyarrow as pa

    frame: bytes = pa.Codec("zstd", compression_level=_ZSTD_LEVEL).compress(data, asbytes=True)
    return frame


def original_form(stored: bytes, digest: Digest) -> bytes | None:
    """Return the artifact of `digest` that was stored in either form, or None if the bytes are damaged."""
    if sha256_hex(stored) == digest:
        return stored
    if not is_compressed(stored):
        return None
    import pyarrow as pa

    try:
        data: bytes = pa.CompressedInputStream(pa.BufferReader(stored), "zstd").read()
    except OSError:  # a frame that is cut or changed
        return None
    return data if sha256_hex(data) == digest else None


def is_compressed(head: bytes) -> bool:
    """Return whether stored bytes that begin with `head` are a frame, unless the artifact itself is one."""
    return head.startswith(_ZSTD_MAGIC)
