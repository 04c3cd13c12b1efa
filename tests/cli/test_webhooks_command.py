import pytest
from typer.testing import CliRunner

from flows.cli.webhooks import app
from tasks.contracts.errors import InfrastructureError, UserError
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings


@pytest.fixture
def serve(tmp_path, monkeypatch):
    def call(secret, *options):
        monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path))
        monkeypatch.setenv("STILLHOUSE_WEBHOOK_SECRET", secret) if secret else monkeypatch.delenv(
            "STILLHOUSE_WEBHOOK_SECRET", raising=False
        )
        current_settings.cache_clear()
        connect.cache_clear()
        return CliRunner().invoke(app, ["serve", *options], catch_exceptions=False)

    yield call
    current_settings.cache_clear()
    connect.cache_clear()


@pytest.mark.parametrize(("secret", "message"), [(None, "set STILLHOUSE_WEBHOOK_SECRET"), ("short", "fewer than 16")])
def test_serve_refuses_without_a_secret_that_guards(serve, secret, message):
    with pytest.raises(UserError, match=message):
        serve(secret)


def test_serve_says_when_the_address_cannot_be_had(serve):
    with pytest.raises(InfrastructureError, match=r"cannot listen on 192\.0\.2\.1:8090"):
        serve("a secret of enough length", "--host", "192.0.2.1")
