"""PostgreSQL's programs on this machine: distributions keep them off the PATH, one folder for each version."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.contracts.errors import UserError

_FOLDERS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")
_NEEDED = ("initdb", "postgres")
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class PostgresPrograms:
    """The programs of one version."""

    folder: Path
    version: int
    """The major one; a cluster can be used by programs of its own alone."""


def find_programs(version: int | None = None, root: Path = Path("/")) -> PostgresPrograms:
    """Find the programs: first those of the PATH, then the newest that distributions installed, then pg_config's.

    Args:
        version: the major one that is wanted; any if None.
        root: of the file system.

    Raises:
        UserError: there are none, or none of that version; the message says where was looked.
    """
    found = []
    for folder in _candidates(root):
        if all((folder / name).is_file() for name in _NEEDED) and (major := _version(folder / "postgres")) is not None:
            if version in (None, major):
                return PostgresPrograms(folder, major)
            found.append(f"{major} in {folder}")
    wanted = "PostgreSQL's server" if version is None else f"the server of PostgreSQL {version}, which made the cluster"
    raise UserError(
        f"{wanted} is not installed: looked in PATH, {', '.join(f'/{one}' for one in _FOLDERS)} and `pg_config "
        f"--bindir`, and found {', '.join(found) or 'none'}. Install it (apt-get install postgresql, dnf install "
        "postgresql-server, brew install postgresql), or set STILLHOUSE_LEDGER_URL to a server elsewhere"
    )


def _candidates(root: Path) -> Iterator[Path]:
    on_path = shutil.which("initdb")
    if on_path:
        yield Path(on_path).resolve().parent
    for pattern in _FOLDERS:
        yield from sorted(root.glob(pattern), key=_number, reverse=True)
    config = shutil.which("pg_config")
    if config:
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
        if told.returncode == 0:
            yield Path(told.stdout.strip())


def _number(folder: Path) -> int:
    found = re.findall(r"\d+", str(folder))
    return int(found[-1]) if found else 0


def _version(program: Path) -> int | None:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    match = re.search(r"\(PostgreSQL\)\D*(\d+)", told.stdout)
    return int(match[1]) if match else None
