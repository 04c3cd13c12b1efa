import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))  # its dossiers
from model_world import NOW, app, register

from flows.cli.console import console
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings, current_settings
from tasks.stages.promoting import bootstrap


@pytest.fixture(scope="session")
def services(tmp_path_factory):
    """Real store, ledger and MLflow with model `digits`: version 1 is champion, 2 and 3 are gated."""
    services = connect(Settings(home=tmp_path_factory.mktemp("home")))
    parent = services.tracker.parent_run("digits", "flow", "run", {})
    for weight in (1.0, 2.0, 3.0):
        register(services, parent, weight)
    bootstrap(services, "digits", 1, "flow", "the [first] one", NOW)
    return services


@pytest.fixture
def run(services, monkeypatch):
    """Run a command line and return (exit code, output); errors of ours come through, as the root expects."""
    monkeypatch.setenv("STILLHOUSE_HOME", str(services.settings.home))
    monkeypatch.setenv("COLUMNS", "200")
    current_settings.cache_clear()
    connect.cache_clear()

    def call(*arguments):
        console.cache_clear()  # rich keeps the stream that it was made with
        outcome = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        return outcome.exit_code, outcome.stdout

    yield call
    console.cache_clear()
