"""The whole command, in this process: exit codes, JSON, and errors without a traceback."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import root
from flows.cli.console import console, error_console
from flows.dossiers import save_dossier
from tasks.contracts.errors import GateError, PlanError, ServiceUnavailableError, StageFailedError, WorkerLostError
from tasks.contracts.route import Arm, RouteAcknowledgement
from tasks.contracts.verdict import GateReport, Verdict
from tasks.decisions import rollout
from tasks.decisions.experiment import ArmStats, Observation, StepTraffic
from tasks.decisions.rollout import RolloutPolicy
from tasks.runtime.services import connect
from tasks.stages.rollout_record import RolloutRecord

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))
from dossiers import make_dossier  # the dossiers that the report's tests use

PLAN = Path(__file__).parents[2] / "plans" / "digits.yaml"


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr("tasks.runtime.prefect_server.start_prefect_server", lambda settings: None)
    (home / "prefect").mkdir(parents=True)
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))  # as if a server were configured: none is started

    def run(*arguments: str) -> Ended:
        console.cache_clear()
        error_console.cache_clear()
        monkeypatch.setattr(sys, "argv", ["stillhouse", *arguments])
        with pytest.raises(SystemExit) as ended:
            root.run_command_line()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    yield run
    console.cache_clear()
    error_console.cache_clear()


@pytest.fixture
def failed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Make `stillhouse runs ls` fail with an error."""

    def fail_with(error: Exception) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setattr("flows.dossiers.list_dossiers", fail)

    return fail_with


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PlanError("seed [/bold] is wrong"), 2),
        (GateError("not PASS"), 2),
        (ServiceUnavailableError("http://there does not answer"), 3),
        (WorkerLostError("killed"), 3),
        (StageFailedError("KeyError"), 3),
        (PermissionError(13, "Permission denied", "/there"), 3),
    ],
)
def test_a_foreseen_error_is_one_message_and_the_exit_code_of_its_class(
    call: Callable[..., Ended], failed: Callable[[Exception], None], error: Exception, code: int
) -> None:
    failed(error)
    ended = call("runs", "ls", "--json")

    assert (ended.code, ended.out) == (code, "")
    assert str(error) in ended.err
    assert "Traceback" not in ended.err


def test_a_defect_shows_its_traceback_and_is_not_taken_for_a_failed_gate(
    call: Callable[..., Ended], failed: Callable[[Exception], None]
) -> None:
    failed(KeyError("missing"))
    ended = call("runs", "ls")

    assert ended.code == 3
    assert "Traceback" in ended.err
    assert "defect" in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["run", str(PLAN), "--set", "sed=1"], "did you mean 'seed'"),
        (["plan", "validate", str(PLAN), "--set", "seed"], "key.path=value"),
        (["techniques", "distil"], "unknown technique 'distil'"),
        (["gate"], "there is no run yet"),
        (["report", "0f"], "there is no run yet"),
        (["rollout", "status", "digits"], "was ever begun"),
        (["rollout", "tick", "digits"], "was ever begun"),
        (["rollout", "abort", "digits"], "no rollout of digits is running"),
        (["promote", "digits"], "Missing option"),
        (["model", "pull", "f" * 64], "Missing option"),
    ],
)
def test_bad_input_ends_with_exit_code_2_and_says_what_is_wrong(
    call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("prefect.flows.Flow.__call__", lambda flow, *given: flow.fn(*given))
    ended = call(*arguments)

    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_infrastructure_that_is_missing_ends_with_exit_code_3(
    call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    shutil.rmtree(home)
    home.write_text("a file where the folder should be")
    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.setattr("pathlib.Path.home", lambda: home.parent)
    ended = call("techniques")

    assert ended.code == 3
    assert "STILLHOUSE_HOME" in ended.err
    assert "Traceback" not in ended.err


@pytest.fixture
def runs() -> None:
    save_dossier(make_dossier())


JSON_COMMANDS = {
    "plan validate": ["plan", "validate", str(PLAN), "--json"],
    "plan show": ["plan", "show", str(PLAN), "--json"],
    "plan schema": ["plan", "schema"],
    "techniques": ["techniques", "--json"],
    "one technique": ["techniques", "quantize_static", "--json"],
    "runs ls": ["runs", "ls", "--json"],
    "runs show": ["runs", "show", "--json"],
    "gate": ["gate", "--json"],
    "report": ["report", "--json", "--out", "page.html"],
}


@pytest.mark.parametrize("arguments", JSON_COMMANDS.values(), ids=JSON_COMMANDS)
def test_json_output_is_json_and_nothing_else(
    call: Callable[..., Ended],
    runs: None,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call(*arguments)

    assert ended.code == 0, ended.err
    assert ended.json
    tables = call(*[argument for argument in arguments if argument != "--json"])
    assert (tables.code, tables.err) == (0, "")


def test_runs_show_writes_the_record_and_gate_tells_the_verdict_by_its_exit_code(
    call: Callable[..., Ended], runs: None
) -> None:
    record = call("runs", "show", "0f9f2", "--json").json
    assert (record["schema"], record["chosen"]) == ("stillhouse.run/1", "student-pruned-int8")

    assert call("gate").code == 0
    unsettled = call("gate", "--candidate", "student-int8")
    assert unsettled.code == 1
    assert "INCONCLUSIVE" in unsettled.out
    assert call("gate", "--candidate", "pruned-int8").code == 1
    unknown = call("gate", "--candidate", "nobody")
    assert unknown.code == 2
    assert "student-int8" in unknown.err


def test_runs_of_another_version_are_named_instead_of_a_traceback(call: Callable[..., Ended]) -> None:
    connect().documents.append("runs/old", b'{"record": 1}', 0)
    ended = call("runs", "ls")

    assert ended.code == 3
    assert "runs/old" in ended.err
    assert "Traceback" not in ended.err


@pytest.fixture
def rolled() -> None:
    """A rollout with unbounded intervals in its checks and a reason with brackets."""
    arms = Arm(digest="a" * 64, version=1), Arm(digest="b" * 64, version=2)
    state = rollout.start("r1", "digits", *arms, RolloutPolicy(steps=(5.0, 50.0)), "now")
    ledger = connect().ledger
    seen = Observation((StepTraffic(5.0, ArmStats(requests=3, rows=3, latencies_ms=_ones(3)), ArmStats()),))
    for number in range(2):
        record = RolloutRecord(state=state, gate_report="c" * 64, weights={"2": 5.0})
        ledger.append_tick("digits", "r1", number, record.canonical_json())
        state, _ = rollout.tick(state, seen, state.policy, "now")
    aborted = rollout.abort(record.state, "see [/ticket] 7", "now")
    ledger.append_tick("digits", "r1", 2, record.model_copy(update={"state": aborted}).canonical_json())


def _ones(num: int) -> Any:
    import numpy as np

    return np.ones(num)


def test_rollout_status_is_json_and_text_whatever_the_reason_and_the_bounds(
    call: Callable[..., Ended], rolled: None
) -> None:
    shown = call("rollout", "status", "digits")
    assert (shown.code, shown.err) == (0, "")
    assert "see [/ticket] 7" in shown.out

    assert call("rollout", "status", "digits", "--json").json["state"]["status"] == "aborted"


@pytest.fixture
def waiting(tmp_path: Path) -> None:
    """A rollout that waits for a person at its first step, and one gateway that serves its route."""
    services = connect()
    arms = Arm(digest="a" * 64, version=1), Arm(digest="b" * 64, version=2)
    policy = RolloutPolicy(steps=[5, {"pause": {}}, 50])
    state = rollout.start("r1", "digits", *arms, policy, "2026-01-01T00:00:00+00:00")
    state, _ = rollout.tick(state, Observation(), policy, "2026-01-01T00:01:00+00:00")
    report = GateReport(
        model_name="digits", candidate_name="small", candidate="b" * 64, baseline="a" * 64, dataset="d" * 64,
        plan="e" * 64, verdict=Verdict.PASS, checks=(), alpha=0.05, created_at="now",
    )  # fmt: skip
    digest = services.artifacts.put(report.canonical_json()).digest
    record = RolloutRecord(state=state, gate_report=digest, weights={"2": 5.0})
    services.ledger.append_tick("digits", "r1", 1, record.canonical_json())
    heard = RouteAcknowledgement(
        model_name="digits", replica="gw-1", route_version=2, ready=True, at="2026-01-01T00:00:00Z"
    )
    folder = services.settings.store_root / "acknowledgements" / "digits"
    folder.mkdir(parents=True)
    (folder / "gw-1.json").write_bytes(heard.canonical_json())


def test_rollout_status_shows_a_pause_what_to_do_and_the_gateways(call: Callable[..., Ended], waiting: None) -> None:
    shown = call("rollout", "status", "digits")

    assert "digits: paused at 5 %" in shown.out
    assert "Waits for a person: `stillhouse rollout resume digits`, `promote` or `abort`" in shown.out
    assert "gw-1 serves version 2" in shown.out
    assert "silent since then and taken for gone" in shown.out
    assert [one["replica"] for one in call("rollout", "status", "digits", "--json").json["acknowledgements"]] == [
        "gw-1"
    ]


def test_rollout_resume_and_promote_are_recorded_and_said(call: Callable[..., Ended], waiting: None) -> None:
    resumed = call("rollout", "resume", "digits", "--reason", "looked [at] it", "--json").json
    assert (resumed["state"]["status"], resumed["state"]["latest"]["verdict"]) == ("running", "resume")

    promoted = call("rollout", "promote", "digits", "--full")
    assert promoted.code == 0
    assert "skips all that is left before promotion" in promoted.out
    assert "The next tick acts on it" in promoted.out
    assert "Gone past, though not proven: accuracy" in promoted.out
    assert call("rollout", "status", "digits", "--json").json["state"]["skip"] == "rollout"


def test_rollout_commands_end_with_2_when_no_rollout_is_running(call: Callable[..., Ended]) -> None:
    for command in ("resume", "promote", "abort"):
        ended = call("rollout", command, "digits")
        assert (ended.code, "no rollout of digits is running" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("rolled_out", "chosen", "code"),
    [
        ("promote", "student-pruned-int8", 0),
        ("unchanged", "student-pruned-int8", 0),
        (None, "student-pruned-int8", 0),
        ("roll_back", "student-pruned-int8", 1),
        ("hold", "student-pruned-int8", 1),
        (None, None, 1),
    ],
)
def test_run_ends_with_0_only_when_a_candidate_passed_and_was_not_rolled_back(
    call: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rolled_out: str | None,
    chosen: str | None,
    code: int,
) -> None:
    dossier = make_dossier(rollout=rolled_out, chosen=chosen)
    monkeypatch.setattr("flows.delivery.deliver_model", lambda plan, pin_baseline: dossier)
    monkeypatch.setattr("tasks.adapters.mlflow_connection.import_in_background", lambda: None)
    place = tmp_path / "new" / "record.json"

    ended = call("run", str(PLAN), "--json", str(place))

    assert ended.code == code, ended.err
    assert json.loads(place.read_text()) == json.loads(dossier.record.model_dump_json())
    assert dossier.record.report in ended.out
    assert call("run", str(PLAN), "--json", "-").json["chosen"] == chosen


def test_plan_show_gives_a_plan_that_is_the_same_plan(call: Callable[..., Ended], tmp_path: Path) -> None:
    shown = tmp_path / "shown.yaml"
    shown.write_text(call("plan", "show", str(PLAN), "--set", "seed=5").out)

    again = call("plan", "validate", str(shown), "--json").json
    assert again == call("plan", "validate", str(PLAN), "--set", "seed=5", "--json").json
    assert yaml.safe_load(shown.read_text())["seed"] == 5


def test_doctor_ends_with_3_and_names_the_remedy_when_something_is_broken(
    call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.diagnosis import Finding

    found = [Finding("store", "ok", "fine [/x]"), Finding("mlflow", "broken", "http://there is dead", "start [it]")]
    monkeypatch.setattr("flows.diagnosis.diagnose", lambda: found)

    ended = call("doctor")
    assert ended.code == 3
    assert "fine [/x]" in ended.out
    assert "start [it]" in ended.out
    assert [one["state"] for one in call("doctor", "--json").json] == ["ok", "broken"]
    found.pop()
    assert call("doctor").code == 0
