import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.adapters.mlflow_connection import connection
from tasks.adapters.mlflow_tracking import FLOW_RUN_TAG, STAGE_KEY_TAG, MlflowTracker
from tasks.contracts.errors import UserError
from tasks.contracts.model import EpochRecord, UsageSample
from tasks.contracts.registration import RUN_TAG
from tasks.runtime.settings import Settings

HISTORY = tuple(EpochRecord(step=step, metrics={"loss": 1.0 / step, "accuracy": 0.5}) for step in range(1, 4))


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


class FaultyClient:
    """Passes calls on to MLflow and dies right after the nth one."""

    def __init__(self, client, calls_to_live):
        self._client = client
        self._left = calls_to_live

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*args, **kwargs):
            result = method(*args, **kwargs)
            self._left -= 1
            if self._left == 0:
                raise Killed(name)
            return result

        return call


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(home=tmp_path_factory.mktemp("tracking"))


@pytest.fixture(scope="module")
def tracker(settings):
    return MlflowTracker(settings)


@pytest.fixture(scope="module")
def client(settings):
    return connection(settings).client


def runs_with(client, experiment, tag, value):
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    return client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'")


def record_stage(tracker, experiment, key, **changes):
    values = {
        "name": "distill",
        "params": {"temperature": "4"},
        "metrics": {"accuracy": 0.93},
        "history": HISTORY,
        "tags": {"stillhouse.kind": "distill_response"},
    }
    return tracker.stage_run(experiment, "parent", key, **(values | changes))


def test_parent_run_finds_the_run_when_the_flow_run_is_retried(tracker, client):
    first = tracker.parent_run("parents", "flow-1", "digits 1", {"seed": "1"})
    tracker.finish_parent(first, {}, {}, {}, "FAILED")

    again = tracker.parent_run("parents", "flow-1", "digits 1", {"seed": "1", "late": "x"})

    run = client.get_run(first)
    assert again == first
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "digits 1"
    assert run.data.params == {"seed": "1", "late": "x"}
    assert len(runs_with(client, "parents", FLOW_RUN_TAG, "flow-1")) == 1


def test_parent_run_makes_another_run_when_the_flow_run_is_another(tracker):
    assert tracker.parent_run("parents", "flow-2", "x", {}) != tracker.parent_run("parents", "flow-3", "x", {})


def test_stage_run_is_finished_and_complete_when_recorded_once(tracker, client):
    run_id = record_stage(tracker, "stages", "train/abc")

    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "distill"
    assert run.data.params == {"temperature": "4"}
    assert run.data.metrics == {"accuracy": 0.93, "loss": pytest.approx(1 / 3)}
    assert run.data.tags["mlflow.parentRunId"] == "parent"
    assert run.data.tags["stillhouse.kind"] == "distill_response"
    losses = client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in losses] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_stage_run_keeps_its_first_parent_when_a_later_flow_run_records_the_stage(tracker, client):
    first = record_stage(tracker, "stages", "train/shared")
    again = tracker.stage_run("stages", "another-parent", "train/shared", "distill", {}, {}, (), {})

    assert again == first
    assert client.get_run(first).data.tags["mlflow.parentRunId"] == "parent"


def test_stage_run_is_another_when_the_experiment_is_another(tracker):
    assert record_stage(tracker, "stages", "train/x") != record_stage(tracker, "other-stages", "train/x")


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_stage_run_is_completed_and_not_duplicated_when_the_process_died_after_any_call(
    tracker, client, monkeypatch, call
):
    shared = tracker._mlflow
    key = f"killed/{call}"
    record_stage(tracker, "killed", "warm-up")  # so that the calls below are those of the stage itself
    with monkeypatch.context() as patch:
        patch.setattr(shared, "_client", FaultyClient(client, call))
        with pytest.raises(Killed):
            record_stage(tracker, "killed", key)

    run_id = record_stage(tracker, "killed", key)

    run = client.get_run(run_id)
    assert [found.info.run_id for found in runs_with(client, "killed", STAGE_KEY_TAG, key)] == [run_id]
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"accuracy": 0.93, "loss": pytest.approx(1 / 3)}
    assert len(client.get_metric_history(run_id, "loss")) == len(HISTORY)


def test_stage_run_is_one_when_many_threads_record_it_at_once(tracker, client):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: record_stage(tracker, "threads", "train/key"), range(8)))

    assert len(found) == 1
    assert len(runs_with(client, "threads", STAGE_KEY_TAG, "train/key")) == 1


def test_stage_run_cuts_visibly_when_values_exceed_what_mlflow_takes(tracker, client):
    run_id = record_stage(
        tracker, "limits", "long", params={"plan": "p" * 10_000, "k" * 300: "v"}, tags={"note": "n" * 10_000}
    )

    data = client.get_run(run_id).data
    assert (len(data.params["plan"]), data.params["plan"][-1]) == (6000, "…")
    assert data.params["k" * 250] == "v"
    assert data.tags["note"].endswith("…")


def test_stage_run_logs_everything_when_it_exceeds_one_batch(tracker, client):
    history = tuple(EpochRecord(step=step, metrics={"a": step, "b": step, "c": step}) for step in range(1, 501))
    params = {f"p{number}": "1" for number in range(250)}
    run_id = record_stage(tracker, "limits", "many", params=params, history=history)

    assert len(client.get_metric_history(run_id, "c")) == 500
    assert len(client.get_run(run_id).data.params) == 250


def test_stage_run_keeps_nan_when_a_metric_is_not_a_number(tracker, client):
    run_id = record_stage(tracker, "limits", "nan", metrics={"energy": math.nan})

    assert math.isnan(client.get_run(run_id).data.metrics["energy"])


@pytest.mark.parametrize("key", ["it's", 'say "x"'])
def test_stage_run_finds_its_run_when_the_key_holds_a_quote(tracker, key):
    assert record_stage(tracker, "quotes", key) == record_stage(tracker, "quotes", key)


def test_stage_run_refuses_when_the_key_holds_both_quotes(tracker):
    with pytest.raises(UserError, match="both kinds of quotes"):
        record_stage(tracker, "quotes", "'\"")


def test_finish_parent_attaches_files_and_ends_the_run_when_called_twice(tracker, client, tmp_path):
    run_id = tracker.parent_run("finished", "flow-1", "run", {})
    for _ in range(2):
        tracker.finish_parent(
            run_id, {"best": 0.9}, {"verdict": "PASS"}, {"report.html": b"<html>", "gate/a.json": b"{}"}, "FINISHED"
        )

    run = client.get_run(run_id)
    assert (run.info.status, run.data.metrics, run.data.tags["verdict"]) == ("FINISHED", {"best": 0.9}, "PASS")
    with open(client.download_artifacts(run_id, "gate/a.json", str(tmp_path)), "rb") as file:
        assert file.read() == b"{}"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_finish_parent_refuses_when_a_file_leads_out_of_its_folder(tracker, name):
    run_id = tracker.parent_run("finished", "flow-2", "run", {})

    with pytest.raises(UserError, match="relative path"):
        tracker.finish_parent(run_id, {}, {}, {name: b""}, "FINISHED")


def test_stage_run_shows_usage_as_mlflows_system_metrics(tracker, client):
    usage = tuple(UsageSample(at_s=at, metrics={"cpu_utilization_percentage": 10 * at}) for at in (1.0, 2.5))
    run_id = record_stage(tracker, "usage", "stage-1", usage=usage)

    points = client.get_metric_history(run_id, "system/cpu_utilization_percentage")

    start = client.get_run(run_id).info.start_time
    assert [(point.value, point.step, point.timestamp - start) for point in points] == [
        (10.0, 0, 1000),
        (25.0, 1, 2500),
    ]


def test_flow_run_of_is_found_from_the_runs_own_run_and_from_a_stages(tracker):
    parent = tracker.parent_run("correlation", "flow-9", "run", {})
    stage = record_stage(tracker, "correlation", "stage-9", tags={RUN_TAG: "flow-9"})

    assert (tracker.flow_run_of(parent), tracker.flow_run_of(stage)) == ("flow-9", "flow-9")
    assert tracker.flow_run_of("0" * 32) is None
    assert tracker.flow_run_of("no id at all") is None
