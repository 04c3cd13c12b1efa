"""A PostgreSQL server of the tests' own, on a Unix socket below a temporary folder."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

USER = "stillhouse"
_READY_WITHIN_S = 60.0


def why_missing() -> str:
    """Say what keeps a server from being started here; empty if nothing does."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed; pip install 'stillhouse[production]'"
    return "" if programs() else "PostgreSQL's server is not installed; apt-get install postgresql"


def programs() -> Path | None:
    """Return the folder of the newest server's programs: distributions keep them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = versions[-1] if versions else shutil.which("initdb")
    return Path(found).parent if found else None


class PostgresServer:
    """One private cluster. It refuses to run as root, so that root's tests run it as somebody else."""

    def __init__(self) -> None:
        folder = programs()
        assert folder is not None, "ask why_missing() first"
        self._programs = folder
        self.folder = Path(tempfile.mkdtemp(prefix="stillhouse-postgres-"))
        """Where its socket and all its files are."""
        self._as_other: dict[str, object] = {}
        if os.geteuid() == 0:
            other = next(pwd.getpwnam(name) for name in ("postgres", "nobody") if _exists(name))
            os.chown(self.folder, other.pw_uid, other.pw_gid)
            self._as_other = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres", "-D", self._data, "-k", str(self.folder), "-c", "listen_addresses=",
                    "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "autovacuum=off",
                    "-c", "shared_buffers=16MB",
                ],
                stdout=log, stderr=subprocess.STDOUT, cwd="/", **self._as_other,
            )  # fmt: skip
        deadline = time.monotonic() + _READY_WITHIN_S
        while subprocess.run([self._programs / "pg_isready", "-q", "-h", self.folder], check=False).returncode:
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def crash(self) -> None:
        """End the server as a crash does: at once, without a checkpoint."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End the server, without a checkpoint that nobody needs, and remove its files."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        if self._process is None:  # a test that ended it failed before it started it again
            self.start()
        name = f"test{next(self._numbers)}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def execute(self, database: str, statement: str) -> list[tuple[object, ...]]:
        """Run one statement as the superuser and return its rows."""
        import psycopg

        where = {"host": str(self.folder), "user": USER, "dbname": database}
        with psycopg.connect(**where, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def query(self, url: str, statement: str) -> list[tuple[object, ...]]:
        """Run one statement in the database of a URL that `database` gave."""
        return self.execute(url.rpartition("?")[0].rpartition("/")[2], statement)

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **self._as_other)
        assert done.returncode == 0, done.stderr

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
