import json

import pytest
import typer
from typer.testing import CliRunner

from flows.cli.console import console
from flows.cli.store import app as store_app
from tasks.contracts.errors import UserError
from tasks.runtime.services import connect

app = typer.Typer()
app.add_typer(store_app, name="store")


def run(*arguments):
    console.cache_clear()
    return CliRunner().invoke(app, ["store", *arguments], catch_exceptions=False)


@pytest.fixture
def registry(monkeypatch):
    """A registry without models, so that none has to be made."""
    from types import SimpleNamespace

    monkeypatch.setattr("tasks.adapters.mlflow_registry.MlflowRegistry", lambda *_: SimpleNamespace(names=list))


def test_gc_says_what_it_would_do_and_does_it_when_told_to(registry):
    digest = connect().artifacts.put(b"nobody's").digest
    dry = run("gc")
    assert "nothing was changed" in dry.output
    assert json.loads(run("gc", "--delete", "--json").output)["young"] == {"files": 1, "size_bytes": 8}
    assert connect().artifacts.contains(digest)


def test_commands_of_s3_say_so_when_the_store_is_a_folder():
    with pytest.raises(UserError, match="the store is a folder"):
        run("url", "0" * 64)
    with pytest.raises(UserError, match="STILLHOUSE_TRAFFIC_URL"):
        run("mirror", "--once")
