from dataclasses import replace

from flows.diagnosis.orchestration import (
    judge_automations,
    judge_deployments,
    judge_schedules,
    judge_server,
    judge_workers,
)
from flows.diagnosis.wanted import WantedDeployment
from tasks.adapters.prefect_state import DeploymentState, PoolState, PrefectState

WANTED = [
    WantedDeployment("digits", "flows/deployments.py:compress_plan", "cpu", {"plan": "a.yaml"}, 1, ()),
    WantedDeployment("retrain", "flows/retraining.py:retrain_model", "cpu", {}, 0, ("digits-drift",)),
]
STATE = PrefectState(
    version="3.8.8",
    pools={"cpu": PoolState("process", False, ("w1",)), "gpu": PoolState("process", False, ())},
    deployments={
        "digits": DeploymentState("flows/deployments.py:compress_plan", "cpu", False, {"plan": "a.yaml", "x": 1}, 1, 0),
        "retrain": DeploymentState("flows/retraining.py:retrain_model", "cpu", False, {}, 0, 0),
    },
    automations={"retrain/digits-drift": True, "stillhouse: alarms of all models to slack-webhook/oncall": True},
)


def with_deployment(**changes: object) -> PrefectState:
    return replace(STATE, deployments=STATE.deployments | {"digits": replace(STATE.deployments["digits"], **changes)})


def test_judge_server_notes_a_server_that_is_older_than_the_client() -> None:
    assert judge_server("http://p/api", STATE, "3.8.1").state == "ok"
    assert judge_server("http://p/api", STATE, "3.9.0").state == "note"


def test_judge_workers_wants_pools_that_somebody_works_for() -> None:
    assert judge_workers(STATE, WANTED).detail == "live workers of cpu (process): w1; gpu (process): none"
    assert judge_workers(STATE, WANTED).state == "ok"

    gone = judge_workers(replace(STATE, pools={}), WANTED)
    assert (gone.state, gone.detail) == ("broken", "no work pool cpu on the server")
    idle = judge_workers(replace(STATE, pools={"cpu": PoolState("process", False, ())}), WANTED)
    assert (idle.state, idle.remedy) == ("broken", "`prefect worker start --pool cpu`")
    paused = judge_workers(replace(STATE, pools={"cpu": PoolState("process", True, ("w1",))}), WANTED)
    assert (paused.state, paused.remedy) == ("note", "`prefect work-pool resume cpu`")


def test_judge_deployments_says_what_is_missing_and_what_differs_from_the_file() -> None:
    assert judge_deployments(STATE, WANTED).state == "ok"
    assert judge_deployments(STATE, []).state == "note"
    missing = judge_deployments(replace(STATE, deployments={}), WANTED)
    assert (missing.state, missing.detail) == ("broken", "2 of 2 are not on the server: digits, retrain")
    for changes, told in (
        ({"entrypoint": "flows/old.py:f"}, "digits (runs flows/old.py:f)"),
        ({"work_pool": "gpu"}, "digits (pool gpu)"),
        ({"parameters": {"plan": "b.yaml"}}, "digits (parameter plan)"),
        ({"schedules_off": 2}, "digits (3 schedules, not 1)"),
    ):
        stale = judge_deployments(with_deployment(**changes), WANTED)
        assert (stale.state, stale.detail) == ("note", f"other than in prefect.yaml: {told}")
    assert judge_deployments(with_deployment(is_paused=True), WANTED).detail == "all 2 there; paused: digits"


def test_judge_schedules_notes_a_server_on_which_nothing_runs_by_itself() -> None:
    assert judge_schedules(STATE, WANTED).detail == "on: digits; off: none"
    off = judge_schedules(with_deployment(schedules_on=0, schedules_off=1), WANTED)
    assert (off.state, off.detail) == ("note", "on: none; off: digits")


def test_judge_automations_wants_the_triggers_of_the_file_and_somebody_to_be_told() -> None:
    assert judge_automations(STATE, WANTED).state == "ok"
    missing = judge_automations(replace(STATE, automations={}), WANTED)
    assert (missing.state, missing.detail) == ("broken", "not on the server: digits-drift")
    silent = judge_automations(replace(STATE, automations={"digits-drift": True}), WANTED)
    assert (silent.state, "stillhouse notify" in silent.remedy) == ("note", True)
    off = judge_automations(replace(STATE, automations=STATE.automations | {"digits-drift": False}), WANTED)
    assert (off.state, off.detail.endswith("off: digits-drift")) == ("note", True)
