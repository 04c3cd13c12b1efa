import pytest
import typer
from typer.testing import CliRunner

from flows.cli.console import console
from flows.cli.notify import notify
from tasks.contracts.errors import UserError

app = typer.Typer()
app.command()(notify)


def run(*arguments):
    console.cache_clear()  # rich keeps the stream that it was made with
    outcome = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    console.cache_clear()
    return outcome.exit_code, outcome.output


def test_notify_says_what_is_on_and_what_was_removed(monkeypatch):
    asked = []
    for name in ("notify", "stop_notifying"):

        def change(_settings, block, model, name=name):
            asked.append((name, block, model))
            return ["alarms"] if model else []

        monkeypatch.setattr(f"tasks.adapters.prefect_notifications.{name}", change)

    assert run("slack-webhook/oncall", "--model", "digits") == (0, "alarms: on\n")
    assert run("slack-webhook/oncall", "--model", "digits", "--remove") == (0, "alarms: removed\n")
    assert run("slack-webhook/oncall", "--remove") == (0, "nothing was sent through slack-webhook/oncall\n")
    assert [name for name, _, _ in asked] == ["notify", "stop_notifying", "stop_notifying"]


def test_notify_refuses_where_no_server_could_send(home, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    with pytest.raises(UserError, match="set PREFECT_API_URL"):
        run("slack-webhook/oncall")
