"""The log of sampled inputs: which requests fall into it, and its columns, as the gateway writes and others read them.

Layout below the traffic root: `<model>/inputs/<YYYY-MM-DD-HH>/<replica>-<n>.parquet`. Beside the columns, each
segment's schema names the rows' dtype and shape, so that the bytes can be read without the model.
"""

import hashlib
from typing import Final

INPUT_COLUMNS: Final = {
    "request_id": "string",
    "row": "int64",  # index of the row within its request, as in the other logs
    "at": "timestamp[us, UTC]",
    "input": "binary",  # the row as the model took it: C order, the machine's little-endian bytes
}

DTYPE_KEY: Final = b"stillhouse.input_dtype"
"""Key of the schema's metadata: NumPy name of the rows' dtype, such as `float32`."""
SHAPE_KEY: Final = b"stillhouse.input_shape"
"""Key of the schema's metadata: shape of one row as a JSON list, such as `[1, 8, 8]`."""

_SALT = b"stillhouse input sample 1\x00"


def is_sampled(request_id: str, share: float) -> bool:
    """Tell whether a request falls into the sample of `share` of all requests, from 0 to 1.

    By a salted hash of its id: every replica, and every repetition of the request, decides alike. A larger share
    only adds requests. The salt is not the rollout's, so that both arms are sampled alike.
    """
    hashed = hashlib.blake2b(_SALT + request_id.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "big") / 2**64 < share
