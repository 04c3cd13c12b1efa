"""The binary extension: JSON, and then the values of tensors as bytes.

The JSON is as long as the header Inference-Header-Content-Length says. After it come the values of each tensor that
has `binary_data_size` instead of `data`, little-endian and in row-major order. A length of 0 says that the body is
nothing but the values of the only input.
"""

from infra.gateway.errors import RequestError

_MAX_LENGTH_DIGITS = 12


def parse_json_length(value: bytes) -> int:
    """Return what the header Inference-Header-Content-Length says.

    Raises:
        RequestError: 400, it is no number.
    """
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise RequestError(400, "the Inference-Header-Content-Length header must be a number of bytes")
    return int(value)


def divide(body: bytes, json_bytes: int) -> tuple[bytes, memoryview]:
    """Return the JSON and the bytes that follow it.

    Raises:
        RequestError: 400, the body is shorter than its JSON is said to be.
    """
    if json_bytes > len(body):
        raise RequestError(
            400, f"the Inference-Header-Content-Length header says {json_bytes} bytes, but the body has {len(body)}"
        )
    return body[:json_bytes], memoryview(body)[json_bytes:]
