import json
from datetime import UTC, datetime, timedelta

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import traffic
from flows.cli.watch import watch
from tasks.contracts.errors import UserError
from tests.stages.monitored_world import MonitoredWorld

app = typer.Typer()
app.command()(watch)
app.add_typer(traffic.app, name="traffic")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A champion of five hours, whose first two hours are its reference."""
    made = MonitoredWorld(tmp_path, start=datetime.now(UTC) - timedelta(hours=5))
    for hour in (0, 1):
        made.traffic(hour)
    monkeypatch.setattr("tasks.runtime.services.connect", lambda: made.services)
    return made


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_watch_once_ends_with_0_when_nothing_changed_and_counts_no_window(world):
    world.traffic(4, num=900)
    outcome = run("watch", "m", "--once")
    assert (outcome.exit_code, "drift     PASS" in outcome.output) == (0, True)
    assert "accuracy  INCONCLUSIVE  labelled_accuracy: 0 labels arrived" in outcome.output
    assert world.server.events == {}
    assert "monitoring/m/alarms" not in world.services.documents.names()


def test_watch_ends_with_1_when_something_alarms_and_says_what_as_json(world):
    world.traffic(4, shift=0.1)
    outcome = run("watch", "m", "--json")
    report = json.loads(outcome.output)["report"]
    failed = {check["name"] for check in report["checks"] if check["verdict"] == "FAIL"}
    assert (outcome.exit_code, failed) == (1, {"input_mean_ks", "input_mean_psi"})


def test_watch_rebase_makes_it_normal(world):
    world.traffic(4, shift=0.1)
    assert "rows of the last 60 minutes are normal" in run("watch", "m", "--rebase").output
    assert run("watch", "m", "--once").exit_code == 0


def test_watch_reads_limits_from_a_file_and_names_a_wrong_one(world, tmp_path):
    world.traffic(4, shift=0.1)
    policy = tmp_path / "policy.yaml"
    policy.write_text("min_ks: 0.9\nmin_psi: 9.0")
    assert run("watch", "m", "--once", "--policy", str(policy)).exit_code == 0
    policy.write_text("min_sk: 0.9")
    with pytest.raises(UserError, match="min_sk"):
        run("watch", "m", "--once", "--policy", str(policy))


def test_traffic_prune_says_what_it_would_remove_and_then_removes_it(world):
    world.log.predictions({"request_id": "old", "at": datetime.now(UTC) - timedelta(days=9)})
    hours = len(list((world.log.root / "m" / "predictions").iterdir()))
    dry = run("traffic", "prune", "--keep-days", "2", "--dry-run")
    assert "would remove 1 hours, 1 files" in dry.output
    (done,) = json.loads(run("traffic", "prune", "--keep-days", "2", "--json").output)
    assert (done["files"], done["dry_run"]) == (1, False)
    assert len(list((world.log.root / "m" / "predictions").iterdir())) == hours - 1
    by_size = run("traffic", "prune", "--max-bytes", "0", "--dry-run")
    assert "would remove 0 hours" in by_size.output
    assert "still needed" in by_size.output
