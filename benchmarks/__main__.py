"""Run benchmarks: `python -m benchmarks [NAME...] [--out DIR]`; prints the lines of the results' table.

Each runs in a process and a home of its own, so that none sees what another left in memory or on disk.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.result import BenchmarkResult
from benchmarks.table import HEADER, table_rows, write_page

NAMES = ("compression", "gateway", "rollout-traffic", "stage-cache")
_RESULTS = Path(__file__).parent / "results"
_TIMEOUT_S = 300.0


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; return 1 if a benchmark failed, after the others have run."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(NAMES)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    print(*HEADER, sep="\n", flush=True)
    failed = [name for name in given.names or NAMES if not _run(name, out)]
    write_page(out)
    return 1 if failed else 0


def _run(name: str, out: Path) -> bool:
    path = out / f"{name}.json"
    with tempfile.TemporaryDirectory(prefix=f"stillhouse-bench-{name}-", ignore_cleanup_errors=True) as home:
        command = [sys.executable, "-m", "benchmarks.single", name, str(path)]
        try:
            subprocess.run(
                command,
                env=_environment(Path(home)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_TIMEOUT_S,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"benchmark {name} ended with code {error.returncode}:\n{error.output}\n")
            return False
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"benchmark {name} was ended after {_TIMEOUT_S:.0f} s\n")
            return False
    print(*table_rows(BenchmarkResult.model_validate_json(path.read_bytes())), sep="\n", flush=True)
    return True


def _environment(home: Path) -> dict[str, str]:
    """Point every engine below `home`, whatever the caller's environment names."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STILLHOUSE_", "PREFECT_"))}
    return kept | {
        "STILLHOUSE_HOME": str(home),
        "STILLHOUSE_BASELINES": str(home / "baselines"),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "OMP_NUM_THREADS": "1",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, and write the figures down.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all if none")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder of the results; benchmarks/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
