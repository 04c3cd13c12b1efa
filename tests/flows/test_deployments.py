"""Entry points of deployments: what they hand on, and that one run at a time makes a model's next version."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from flows import deployments
from flows.deployments import compress_plan, recompress_plan, search_and_compress
from flows.plan import load_plan
from tasks.contracts.errors import ModelBusyError, UserError
from tasks.contracts.search import Trial
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


@pytest.fixture
def searched(monkeypatch):
    """The plans that were searched, while others may begin; the finalists are what the test puts into the list."""
    plans, finalists = [], []

    def search(plan):
        with single_flight(connect(), plan.registered_name):
            plans.append(plan)
        return SimpleNamespace(finalists=tuple(one.number for one in finalists), chosen=finalists)

    monkeypatch.setattr(deployments, "search_plan", search)
    return plans, finalists


def test_search_and_compress_has_the_gate_judge_what_was_found_and_holds_others_up_only_then(compressed, searched):
    plans, finalists = searched
    finalists.append(Trial(number=5, candidate="pruned-int8", values={"0.ratio": 0.45}))
    assert search_and_compress.fn(PLAN, ["search.trials=6"]) == "student"
    assert plans[0].search.trials == 6
    (judged,) = compressed
    assert list(judged.candidates) == ["pruned-int8-5"]
    assert judged.candidates["pruned-int8-5"][0].ratio == 0.45
    assert judged.registered_name == "digits"


def test_search_and_compress_judges_nothing_where_nothing_was_found(compressed, searched):
    assert search_and_compress.fn(PLAN) is None
    assert len(searched[0]) == 1
    assert compressed == []


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
