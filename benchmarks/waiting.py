"""Stages that wait, compute a little, and answer: the work of the benchmarks that are about placing stages."""

import hashlib
import time

from tasks.contracts.value import Value

_ROUNDS = 20_000


class Waited(Value):
    """What such a stage answers."""

    number: int
    begun: float
    """Reading of the host's monotonic clock at the stage's first line, seconds."""
    digest: str


def wait(number: int, seconds: float) -> Waited:
    """Sleep so long, then hash a little (some 10 ms of processor time)."""
    begun = time.monotonic()
    time.sleep(seconds)
    digest = str(number).encode()
    for _ in range(_ROUNDS):
        digest = hashlib.sha256(digest).digest()
    return Waited(number=number, begun=begun, digest=digest.hex())
