from pathlib import Path

import pytest
from sqlalchemy import make_url

from tasks.runtime.own_postgres import OwnPostgres
from tasks.runtime.settings import Settings


@pytest.fixture
def made(tmp_path) -> OwnPostgres:
    own = OwnPostgres(tmp_path / "a home")
    own.folder.mkdir(parents=True)
    own.password_file.write_text("*:*:*:ledger:a-secret\n")
    own.socket_file.write_text(str(own.folder / "socket"))
    return own


def test_urls_lead_to_the_socket_and_name_the_file_of_the_passwords_but_none_of_them(made):
    url = make_url(made.url("ledger"))
    assert (url.drivername, url.username, url.password, url.database) == (
        "postgresql+psycopg", "ledger", None, "ledger"
    )  # fmt: skip
    assert url.query == {"host": str(made.folder / "socket"), "port": "5432", "passfile": str(made.password_file)}
    prefect = make_url(made.prefect_environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"])
    assert (prefect.drivername, prefect.password) == ("postgresql+asyncpg", None)
    assert prefect.query["host"] == str(made.folder / "socket")
    assert "a-secret" not in f"{url}{made.prefect_environment}"


def test_settings_keep_to_the_cluster_of_their_home_once_it_is_made(made, tmp_path):
    settings = Settings(home=made.home)
    assert settings.ledger_address == made.url("ledger")
    assert settings.tracking_address == made.url("mlflow")
    assert settings.ledger_is_shared

    assert Settings(home=Path(tmp_path / "other")).ledger_address.startswith("sqlite:")
    own = Settings(home=made.home, tracking_url="http://mlflow.internal:5000")
    assert own.tracking_address == "http://mlflow.internal:5000"
