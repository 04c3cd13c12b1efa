import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from flows.cli.publish import publish
from tasks.contracts.errors import DataError, PlanError
from tasks.contracts.publication import PublishedData

app = typer.Typer()
app.command()(publish)
app.command()(lambda: None)
PUBLISHED = PublishedData(
    model_name="digits", origin="0" * 64, source={}, revision="r", base_revision="b", data_revision="d.dir",
    num_rows=120, num_new={"train": 12, "test": 8}, left_out={"no label": 3, "repeats a row": 0}, published_at="now",
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    calls = []

    def fake(plan, batch, min_rows, *, commit):
        calls.append((plan.name, batch, min_rows, commit))
        return PUBLISHED

    monkeypatch.setattr("flows.publication.publish_data", fake)
    return calls


def run(*arguments):
    return CliRunner().invoke(app, ["publish", *arguments])


def test_publish_tells_what_is_new_and_what_was_left_out(asked):
    outcome = run("digits", "--plan", "plans/digits.yaml", "--min-rows", "5", "--commit")
    assert outcome.exit_code == 0
    assert outcome.output.splitlines() == [
        "20 new rows (train 12, test 8) make 120", "data/ at d.dir", "left out, no label: 3",
    ]  # fmt: skip
    assert asked == [("digits", None, 5, True)]


def test_publish_takes_rows_from_a_file_and_writes_json(asked, tmp_path):
    np.savez(tmp_path / "r.npz", x=np.ones((2, 4), np.float32), y=np.arange(2))
    outcome = run("digits", "--plan", "plans/digits.yaml", "--from", str(tmp_path / "r.npz"), "--json")
    assert json.loads(outcome.output)["num_new"] == {"train": 12, "test": 8}
    ((_, batch, min_rows, commit),) = asked
    assert (batch.x.shape, batch.y.tolist(), min_rows, commit) == ((2, 4), [0.0, 1.0], None, False)


def test_publish_refuses_another_models_plan_and_a_model_without_a_run(asked):
    wrong = run("cars", "--plan", "plans/digits.yaml")
    assert isinstance(wrong.exception, PlanError)
    assert "registers 'digits', not 'cars'" in str(wrong.exception)
    assert "name the plan with --plan" in str(run("cars").exception)


@pytest.mark.parametrize("arrays", [{"x": np.ones((2, 4))}, {"x": np.ones((2, 4)), "y": np.ones(3)}])
def test_publish_refuses_a_file_without_a_label_for_each_row(asked, tmp_path, arrays):
    np.savez(tmp_path / "r.npz", **arrays)
    outcome = run("digits", "--plan", "plans/digits.yaml", "--from", str(tmp_path / "r.npz"))
    assert isinstance(outcome.exception, DataError)
