"""PostgreSQL for one machine: where the cluster of a home lies, and how its databases are addressed.

A home that has one keeps ledger, MLflow and Prefect in it from then on. It listens on a Unix socket alone, in a folder
that only its owner may enter.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

PORT = 5432
"""Names the socket; no network port is taken."""
SUPERUSER = "postgres"
DATABASES = ("ledger", "mlflow", "prefect")
"""Each with a role of its own name, which sees nothing of the others."""


@dataclass(frozen=True)
class OwnPostgres:
    """The cluster below one home, made or not."""

    home: Path

    @property
    def folder(self) -> Path:
        """Return the folder of all that belongs to it."""
        return self.home / "postgres"

    @property
    def cluster(self) -> Path:
        """Return PostgreSQL's own folder."""
        return self.folder / "cluster"

    @property
    def password_file(self) -> Path:
        """Return the file of the passwords, in libpq's form; its owner alone may read it."""
        return self.folder / "pgpass"

    @property
    def socket_file(self) -> Path:
        """Return the file that names the folder of the socket: its path may be too long to lie below the home."""
        return self.folder / "socket-folder"

    @property
    def is_made(self) -> bool:
        """Whether this home has a cluster."""
        return self.socket_file.exists()

    @property
    def socket_folder(self) -> Path:
        """Return the folder of the socket."""
        return Path(self.socket_file.read_text(encoding="utf-8"))

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database; the password stays in its file, which libpq reads."""
        passwords = quote(str(self.password_file), safe="/")
        return f"postgresql+psycopg://{database}@/{database}?{self._socket}&passfile={passwords}"

    @property
    def prefect_environment(self) -> dict[str, str]:
        """What Prefect's server is told; its driver takes the file of the passwords from the environment alone."""
        return {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://prefect@/prefect?{self._socket}",
            "PGPASSFILE": str(self.password_file),
        }

    @property
    def _socket(self) -> str:
        return f"host={quote(str(self.socket_folder), safe='/')}&port={PORT}"
