import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from flows.cli.replay import replay
from flows.cli.serve import serve
from tasks.adapters.replay import ArmReplay, ReplayResult
from tasks.contracts.errors import DataError, InfrastructureError, ServiceUnavailableError, UserError

app = typer.Typer()
app.command()(replay)
app.command()(serve)
RESULT = ReplayResult(
    sent=10,
    failed=0,
    wrong_shape=0,
    failures={},
    feedback_sent=10,
    feedback_failed=0,
    arms={"champion": ArmReplay(requests=10, fallbacks=0, rows=10, accuracy=0.9, rmse=None)},
    latency_ms={"p50": 1.0, "p95": 2.0, "p99": 3.0},
    seconds=1.0,
    requests_per_s=10.0,
)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.zeros((3, 4), np.float32), y=np.arange(3))
    return str(path)


@pytest.fixture
def sent(monkeypatch):
    calls = []

    def fake(x, y, url, model, **options):
        calls.append({"rows": len(x), "url": url, "model": model} | options)
        return RESULT.model_copy(update={"failed": 1, "failures": {"HTTP 500": 1}}) if model == "bad" else RESULT

    monkeypatch.setattr("tasks.adapters.replay.replay", fake)
    return calls


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_replay_sends_a_thousand_requests_when_nothing_else_is_said(rows, sent):
    outcome = run("replay", "m", "--data", rows, "--url", "http://g")
    assert outcome.exit_code == 0
    assert "accuracy 0.9000" in outcome.output
    assert (sent[0]["requests"], sent[0]["url"], sent[0]["feedback_share"]) == (1000, "http://g", 1.0)


def test_replay_has_no_limit_but_time_when_for_is_given(rows, sent):
    run("replay", "m", "--data", rows, "--for", "0", "--no-feedback")
    assert sent[0]["requests"] is None
    assert sent[0]["stop"]()
    assert sent[0]["feedback_share"] == 0.0


def test_replay_ends_with_1_when_a_request_failed(rows, sent):
    outcome = run("replay", "bad", "--data", rows)
    assert outcome.exit_code == 1
    assert "1 with HTTP 500" in outcome.output


def test_replay_writes_json_when_asked(rows, sent):
    outcome = run("replay", "m", "--data", rows, "--json")
    assert ReplayResult.model_validate_json(outcome.output) == RESULT


def test_replay_names_the_file_when_it_is_missing_or_wrong(tmp_path, rows):
    wrong = tmp_path / "wrong.npz"
    wrong.write_bytes(b"no archive")
    other = tmp_path / "other.npz"
    np.savez(other, a=np.zeros(1))
    for path in (tmp_path / "missing.npz", wrong, other):
        outcome = run("replay", "m", "--data", str(path))
        assert isinstance(outcome.exception, DataError)
        assert path.name in str(outcome.exception)


def test_replay_names_the_setting_when_no_gateway_answers(rows):
    outcome = run("replay", "m", "--data", rows, "--url", "http://127.0.0.1:1")
    assert isinstance(outcome.exception, ServiceUnavailableError)
    assert "STILLHOUSE_GATEWAY_URL" in str(outcome.exception)


def test_serve_names_the_remedy_when_it_cannot_start(tmp_path):
    places = ("--store", str(tmp_path), "--traffic", str(tmp_path))
    assert isinstance(run("serve", *places, "--replica", "../x").exception, UserError)
    open_to_all = run("serve", *places, "--host", "192.0.2.1")
    assert isinstance(open_to_all.exception, UserError)
    assert "--tokens" in str(open_to_all.exception)
    taken = run("serve", *places, "--host", "192.0.2.1", "--allow-anonymous")
    assert isinstance(taken.exception, InfrastructureError)
    assert "--port" in str(taken.exception)
