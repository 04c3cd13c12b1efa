"""What is written down of log segments on their way to S3."""

from tasks.contracts.value import Digest, Value


class Bundle(Value):
    """Segments that are sent as one object."""

    key: str
    """Of the object, relative to the log's place in the bucket."""
    digest: Digest
    """Of its bytes."""
    rows: int
    segments: tuple[str, ...]
    """Files that it was made of, relative to the log's folder."""


class ShippingState(Value):
    """Counts since a folder was first shipped, and what waits in it. A crash may count twice, never too little."""

    shipped_segments: int = 0
    shipped_rows: int = 0
    lost_segments: int = 0
    lost_rows: int = 0
    """Removed unsent, because too much waited."""
    damaged_segments: int = 0
    """Set aside, because they could not be read."""
    waiting_segments: int = 0
    waiting_bytes: int = 0
