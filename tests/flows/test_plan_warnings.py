from pathlib import Path
from typing import Any

import pytest

from flows.plan import load_plan, parse_plan
from flows.plan_warnings import plan_warnings
from tasks.contracts.evaluation import Machine

PLANS = sorted((Path(__file__).parents[2] / "plans").glob("*.yaml"))
MLP = {"factory": "tasks.models.mlp:mlp"}


def machine(*instructions: str) -> Machine:
    return Machine(
        processor="Imaginary CPU",
        num_cpus=2,
        memory_bytes=2**30,
        system="Linux",
        provider="CPUExecutionProvider",
        versions={},
        instructions=instructions,
    )


AVX2 = machine("avx2")
MANY = 100_000  # test rows: enough for any margin here


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "small",
        "dataset": {"source": "digits"},
        "baseline": {"train": {"model": MLP}},
        "candidates": {"one": [{"kind": "distill_response"}]},
    }
    return base | changes


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_plan_warnings_have_nothing_to_say_of_a_shipped_plan(path: Path) -> None:
    assert plan_warnings(load_plan(path), AVX2) == []


def test_plan_warnings_name_the_rows_needed_when_the_split_is_too_small() -> None:
    plan = parse_plan(document(constraints={"max_accuracy_drop": 0.005}), "test")
    (warning,) = plan_warnings(plan, AVX2)
    assert "needs about" in warning
    assert plan_warnings(plan, AVX2, num_test_rows=MANY) == []


def in_bfloat16(**stage: Any) -> dict[str, Any]:
    schedule = {"precision": "bfloat16"}
    return document(
        baseline={"train": {"model": MLP, "schedule": schedule}},
        candidates={"one": [{"kind": "distill_response", "schedule": schedule} | stage]},
    )


def test_plan_warnings_name_every_schedule_in_bfloat16_when_the_processor_lacks_it() -> None:
    (warning,) = plan_warnings(parse_plan(in_bfloat16(), "test"), AVX2, MANY)
    assert warning.startswith("baseline.train.schedule.precision, candidates.one.0.schedule.precision: bfloat16")
    assert "Imaginary CPU" in warning


def test_plan_warnings_leave_out_stages_that_ask_for_a_gpu() -> None:
    (warning,) = plan_warnings(parse_plan(in_bfloat16(resources={"num_gpus": 1}), "test"), AVX2, MANY)
    assert "candidates" not in warning


@pytest.mark.parametrize("instructions", [("avx2", "avx512bw"), ("asimd", "bf16"), ()])
def test_plan_warnings_are_silent_when_the_processor_has_bfloat16_or_is_not_known(instructions: tuple[str]) -> None:
    assert plan_warnings(parse_plan(in_bfloat16(), "test"), machine(*instructions), MANY) == []
