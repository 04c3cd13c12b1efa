"""Run benchmarks: `python -m benchmarks [NAME...] [--out DIR]`; prints each figure on a line of a table.

Each runs in a process and a home of its own, so that none sees what another left in memory or on disk.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders import PEERS_VARIABLE
from benchmarks.plan_runs import DATA_VARIABLE
from benchmarks.result import BenchmarkResult
from benchmarks.table import HEADER, table_rows, write_page
from tasks.adapters.local_store import write_atomically

SHORT = (
    "closed-loop",
    "compression",
    "decisions",
    "distillation-cost",
    "gateway",
    "overheads",
    "rollout-traffic",
    "scaling",
    "stage-cache",
    "stage-load",
    "store",
)
"""Minutes each, on data that need no download; run when no name is given."""
LONG = (
    "california-housing",
    "clinc150",
    "fashion-mnist",
    "fashion-mnist-distillation",
    "fashion-mnist-techniques",
)
"""Up to hours each, on data below `--data`; run by name."""
NAMES = (*SHORT, *LONG)
_RESULTS = Path(__file__).parent / "results"
_TIMEOUT_S = (
    dict.fromkeys(SHORT, 300.0)
    | {"closed-loop": 1800.0, "decisions": 3600.0, "overheads": 5400.0, "scaling": 2400.0, "stage-load": 1200.0}
    | dict.fromkeys(LONG, 6 * 3600.0)
)
_PEERS_S = 600.0


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; return 1 if a benchmark failed, after the others have run."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(NAMES)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    print(*HEADER, sep="\n", flush=True)
    failed = [name for name in given.names or SHORT if not _run(name, out, given)]
    write_page(out)
    return 1 if failed else 0


def _run(name: str, out: Path, given: argparse.Namespace) -> bool:
    path = out / f"{name}.json"
    with _home(name, given.home) as home:
        command = [sys.executable, "-m", "benchmarks.single", name, str(path)]
        try:
            subprocess.run(
                command,
                env=_environment(home, given.data, given.peers),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_TIMEOUT_S[name] + (_PEERS_S if given.peers else 0.0),
                check=True,
            )
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"benchmark {name} ended with code {error.returncode}:\n{error.output}\n")
            return False
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"benchmark {name} was ended after {_TIMEOUT_S[name]:.0f} s\n")
            return False
    result = BenchmarkResult.model_validate_json(path.read_bytes())
    if given.remark:
        result = result.model_copy(update={"remark": given.remark})
        write_atomically(path, result.model_dump_json(indent=2).encode() + b"\n")
    print(*table_rows(result), sep="\n", flush=True)
    return True


@contextmanager
def _home(name: str, kept: Path | None) -> Iterator[Path]:
    """Give a folder for the engines' state: a temporary one, or one below `kept` that a later call goes on with."""
    if kept is not None:
        yield kept.resolve() / name
        return
    with tempfile.TemporaryDirectory(prefix=f"stillhouse-bench-{name}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _environment(home: Path, data: Path | None, peers: Path | None) -> dict[str, str]:
    """Point every engine below `home`, whatever the caller's environment names."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STILLHOUSE_", "PREFECT_"))}
    return kept | {
        "STILLHOUSE_HOME": str(home),
        "STILLHOUSE_BASELINES": str(home / "baselines"),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "OMP_NUM_THREADS": "1",
        DATA_VARIABLE: str(data.resolve()) if data else "",
        PEERS_VARIABLE: str(peers.resolve()) if peers else "",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, and write the figures down.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; the first {len(SHORT)} if none")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder of the results; benchmarks/results")
    parser.add_argument("--data", type=Path, help="folder with the data sets of the long benchmarks")
    parser.add_argument("--peers", type=Path, help="environment with mlserver, litserve, ray[serve] to compare with")
    parser.add_argument("--home", type=Path, help="keep the engines' state here, so that a call that was ended goes on")
    parser.add_argument("--remark", default="", help="a sentence to keep with the figures: what else the machine did")
    return parser


if __name__ == "__main__":
    sys.exit(main())
