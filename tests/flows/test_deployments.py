"""Entry points of deployments: what they hand on, and that one run at a time makes a model's next version."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from flows import deployments
from flows.deployments import compress_plan, recompress_plan
from flows.plan import load_plan
from tasks.contracts.errors import ModelBusyError, UserError
from tasks.runtime.services import connect
from tasks.stages.single_flight import single_flight

ROOT = Path(__file__).parents[2]
PLAN = str(ROOT / "plans" / "digits.yaml")


@pytest.fixture
def compressed(monkeypatch):
    """The plans that were compressed; whether another may begin meanwhile is asked at each."""
    plans = []

    def compress(plan):
        with pytest.raises(ModelBusyError), single_flight(connect(), plan.registered_name):
            pytest.fail("two at once")
        plans.append(plan)
        return SimpleNamespace(record=SimpleNamespace(chosen="student"))

    monkeypatch.setattr(deployments, "compress_model", compress)
    return plans


def test_compress_plan_runs_the_plan_as_it_is_overridden_while_no_other_run_of_the_model_may_begin(compressed):
    assert compress_plan.fn(PLAN, ["seed=7"]) == "student"
    (plan,) = compressed
    assert plan.seed == 7


def test_recompress_plan_is_refused_while_another_run_of_the_model_is_at_work_and_does_not_count(compressed):
    with single_flight(connect(), "digits"), pytest.raises(ModelBusyError, match="next version of digits"):
        recompress_plan.fn(PLAN, "slow", max_per_week=1)
    assert recompress_plan.fn(PLAN, "slow", max_per_week=1) == "student"
    assert len(compressed) == 1


def test_recompress_plan_counts_its_runs(compressed):
    with pytest.raises(UserError, match="max_per_week is 0"):
        recompress_plan.fn(PLAN, "slow", max_per_week=0)
    assert compressed == []


def test_the_gpu_deployment_asks_for_a_gpu_in_every_stage_that_trains_and_is_else_the_plan():
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    (gpu,) = [one for one in document["deployments"] if one["work_pool"]["name"] == "gpu"]
    plan = load_plan(ROOT / gpu["parameters"]["plan"], tuple(gpu["parameters"]["overrides"]))
    chains = [stage for chain in plan.candidates.values() for stage in chain]

    assert plan.baseline.train.resources.num_gpus == 1
    for stage in chains:
        assert stage.resources.num_gpus == (stage.kind != "quantize_static")
