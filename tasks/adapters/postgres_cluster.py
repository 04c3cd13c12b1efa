"""The PostgreSQL cluster of one home: made once, started by `stillhouse up`, its roles and databases kept right.

Passwords are random and lie in one file that its owner alone may read. None is given to a program as an argument or
sent to the server as it is, so none can show up in a list of processes or in the server's log.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters.local_store import sync_folder, write_atomically
from tasks.adapters.postgres_programs import PostgresPrograms, find_programs
from tasks.contracts.errors import ServiceUnavailableError, UserError
from tasks.runtime.own_postgres import DATABASES, PORT, SUPERUSER, OwnPostgres

if TYPE_CHECKING:
    import psycopg

_LONGEST_SOCKET = 100
"""Bytes of a socket's path that every system takes."""
_EMBEDDED = ("ledger.db", "mlflow.db")
_INITDB_TIMEOUT_S = 300.0


class PostgresCluster:
    """See the module."""

    def __init__(self, home: Path) -> None:
        """Find the programs; nothing is made yet.

        Raises:
            UserError: PostgreSQL or its driver is missing, the user is root, or the home keeps its state in SQLite.
        """
        self.own = OwnPostgres(home)
        if os.geteuid() == 0:
            raise UserError(
                "PostgreSQL refuses to run as root; call `stillhouse up --postgres` as another user, or set "
                "STILLHOUSE_LEDGER_URL to a server elsewhere"
            )
        _require_driver()
        if not self.own.is_made:
            _require_nothing_embedded(home)
        self._programs: PostgresPrograms = find_programs(self._made_by())

    @property
    def command(self) -> list[str]:
        """What runs the server in the foreground; SIGINT is its fast shutdown."""
        return [
            str(self._programs.folder / "postgres"),
            "-D", str(self.own.cluster),
            "-k", str(self.own.socket_folder),
            "-p", str(PORT),
            "-c", "listen_addresses=",
            "-c", "unix_socket_permissions=0700",
            "-c", "logging_collector=off",
        ]  # fmt: skip

    def make(self) -> None:
        """Make what is missing: folder, passwords, cluster, and a folder for the socket. Needs no running server.

        Raises:
            UserError: a cluster is there, but the file of its passwords is not.
            ServiceUnavailableError: PostgreSQL could not make a cluster; its words are in the message.
        """
        self.own.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.own.folder.chmod(0o700)
        if not self.own.password_file.exists():
            if self.own.cluster.exists():
                raise UserError(
                    f"{self.own.password_file} is missing, so nobody can enter the cluster beside it; restore the file"
                )
            _write_passwords(self.own.password_file)
        if not self.own.cluster.exists():
            self._initialise()
        folder = self._socket_folder()
        write_atomically(self.own.socket_file, str(folder).encode())

    def answers(self) -> bool:
        """Tell whether the server takes connections.

        Raises:
            UserError: it does, but not with the passwords that lie here.
        """
        import psycopg

        try:
            self._connect().close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise UserError(
                    f"{self.own.password_file} does not hold the passwords of the cluster beside it"
                ) from error
            return False
        return True

    def prepare(self) -> None:
        """Make roles and databases that are missing in the running server, and give the roles their passwords."""
        passwords = _read_passwords(self.own.password_file)
        with closing(self._connect()) as connection:
            for name in DATABASES:
                _make_role(connection, name, passwords[name])
                _make_database(connection, name)

    def _connect(self) -> "psycopg.Connection":
        import psycopg

        return psycopg.connect(
            host=str(self.own.socket_folder),
            port=PORT,
            user=SUPERUSER,
            dbname="postgres",
            passfile=str(self.own.password_file),
            connect_timeout=5,
            autocommit=True,
        )

    def _made_by(self) -> int | None:
        """Return the version of PostgreSQL that made the cluster, None if there is none."""
        try:
            return int((self.own.cluster / "PG_VERSION").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None

    def _initialise(self) -> None:
        """Make the cluster beside its place and rename it: one that was cut off in the middle is never started."""
        for left_over in self.own.folder.glob("new-*"):
            shutil.rmtree(left_over)
        made = self.own.folder / f"new-{secrets.token_hex(4)}"
        done = subprocess.run(
            [
                self._programs.folder / "initdb", "--pgdata", made, "--username", SUPERUSER,
                "--auth", "scram-sha-256", "--pwfile", "/dev/stdin", "--encoding", "UTF8", "--locale", "C",
                "--data-checksums",
            ],
            input=_read_passwords(self.own.password_file)[SUPERUSER],
            capture_output=True, text=True, check=False, timeout=_INITDB_TIMEOUT_S,
        )  # fmt: skip
        if done.returncode:
            shutil.rmtree(made, ignore_errors=True)
            raise ServiceUnavailableError(
                f"PostgreSQL cannot make a cluster in {self.own.folder}: {done.stderr.strip()}"
            )
        os.rename(made, self.own.cluster)
        sync_folder(self.own.folder)

    def _socket_folder(self) -> Path:
        """Return the folder of the socket: below the home, or where its path would be too long, a private one."""
        below = self.own.folder / "socket"
        if len(os.fsencode(below / f".s.PGSQL.{PORT}")) <= _LONGEST_SOCKET:
            below.mkdir(mode=0o700, exist_ok=True)
            return below
        if self.own.is_made and _is_private(self.own.socket_folder):
            return self.own.socket_folder
        return Path(tempfile.mkdtemp(prefix="stillhouse-"))


def _require_driver() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise UserError("the driver for PostgreSQL is missing: pip install 'stillhouse[production]'") from None


def _require_nothing_embedded(home: Path) -> None:
    """A ledger and a registry that are there must not be left behind unseen."""
    found = [str(home / name) for name in _EMBEDDED if (home / name).exists()]
    if found:
        raise UserError(
            f"this home keeps its state in SQLite ({', '.join(found)}), and PostgreSQL would begin without it. Give "
            "STILLHOUSE_HOME a new folder, or remove these files if nothing in them is needed"
        )


def _is_private(folder: Path) -> bool:
    try:
        facts = folder.lstat()
    except FileNotFoundError:  # what lies in a folder for temporary files is removed now and then
        return False
    return folder.is_dir() and not folder.is_symlink() and facts.st_uid == os.geteuid() and facts.st_mode & 0o077 == 0


def _write_passwords(path: Path) -> None:
    lines = "".join(f"*:*:*:{user}:{secrets.token_hex(32)}\n" for user in (SUPERUSER, *DATABASES))
    staged = path.with_name(f".staged-{secrets.token_hex(8)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)


def _read_passwords(path: Path) -> dict[str, str]:
    rows = (line.split(":") for line in path.read_text(encoding="ascii").splitlines())
    return {user: password for *_, user, password in rows}


def _make_role(connection: "psycopg.Connection", name: str, password: str) -> None:
    from psycopg import sql

    there = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    # what the server stores and might log is the verifier, from which the password cannot be had
    verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}" if there else "CREATE ROLE {} LOGIN PASSWORD {}")
    connection.execute(statement.format(sql.Identifier(name), sql.Literal(verifier)))


def _make_database(connection: "psycopg.Connection", name: str) -> None:
    from psycopg import sql

    database = sql.Identifier(name)
    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, database))
    connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(database))
