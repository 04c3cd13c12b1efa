"""Every test has its own home, and no engine outside it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
from postgres_server import PostgresServer, why_missing

# a loaded machine is no failure, and the same examples are tried every time
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

os.environ |= {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point all embedded state below the test's own folder and forget what was connected before."""
    from tasks.runtime.services import connect
    from tasks.runtime.settings import current_settings

    for name in list(os.environ):
        if name.startswith("STILLHOUSE_"):
            monkeypatch.delenv(name)
    place = tmp_path / "home"
    monkeypatch.setenv("STILLHOUSE_HOME", str(place))
    monkeypatch.setenv("STILLHOUSE_BASELINES", str(tmp_path / "baselines"))
    current_settings.cache_clear()
    connect.cache_clear()
    yield place
    current_settings.cache_clear()
    connect.cache_clear()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server for the session."""
    if reason := why_missing():
        pytest.skip(reason)
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture
def ledger_url(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of an empty database in PostgreSQL; connections to it are closed when the test ends."""
    from tasks.adapters import ledger_database

    make, made = ledger_database._postgres_engine, []

    def make_engine(url):
        made.append(make(url))
        return made[-1]

    monkeypatch.setattr(ledger_database, "_postgres_engine", make_engine)
    yield postgres_server.database()
    for engine in made:
        engine.dispose()
