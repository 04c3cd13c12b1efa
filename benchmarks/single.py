"""The process of one benchmark: `python -m benchmarks.single NAME RESULT.json`, started by `benchmarks`."""

import importlib
import sys
import time
from pathlib import Path

from benchmarks.result import described
from tasks.adapters.local_store import write_atomically
from tasks.runtime.embedded import use_embedded_engines


def main(name: str, path: Path) -> None:
    """Call `measure` of the benchmark's module and write its result."""
    use_embedded_engines()
    started = time.monotonic()
    findings = importlib.import_module(f"benchmarks.{name.replace('-', '_')}").measure()
    result = described(name, findings, time.monotonic() - started)
    write_atomically(path, result.model_dump_json(indent=2).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
