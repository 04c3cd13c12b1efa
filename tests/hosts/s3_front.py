"""Stands before an S3 server and behaves as a file says: `python -m tests.hosts.s3_front ADDRESS PORT BEHIND FILE`."""

import sys
import threading
from pathlib import Path

from tests.adapters.s3_server import Fault, FaultyProxy


def fault_of(mode: str) -> Fault | None:
    """Read `well`, `503` or `slow N`, N in bytes a second."""
    match mode.split():
        case ["slow", rate]:
            return Fault(bytes_per_s=float(rate))
        case [status] if status.isdigit():
            return Fault(status=int(status))
    return None


def main(address: str, port: int, behind: int, place: Path) -> None:
    """Forward until ended."""
    proxy = FaultyProxy(address, behind, listen=(address, port))
    proxy.fault = lambda method, path: fault_of(place.read_text()) if place.exists() else None
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
