"""What a valid plan should be changed for, told before any work: too few test rows, a format that is slow here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flows.plan import CompressionPlan
from tasks.contracts.evaluation import Machine
from tasks.decisions.gate_power import too_few_rows
from tasks.evaluation.machine import computes_bfloat16


def plan_warnings(plan: CompressionPlan, machine: Machine, num_test_rows: int | None = None) -> list[str]:
    """Return a sentence for everything that the plan should be changed for, although it is valid.

    Args:
        plan: The plan.
        machine: Where its stages will run.
        num_test_rows: Rows of the test split; where they are not known yet, the fewest that the data set's
            expectations allow.
    """
    return [*_power_warnings(plan, num_test_rows), *_precision_warnings(plan, machine)]


def _power_warnings(plan: CompressionPlan, num_test_rows: int | None) -> list[str]:
    """Say what the gate will probably be unable to decide."""
    if getattr(plan.dataset, "task", "classification") == "regression":
        return []  # the bootstrap's rows depend on the errors' spread, which nobody knows before the run
    if num_test_rows is None:
        num_test_rows = round(plan.dataset.expect.min_rows * plan.dataset.split.test)
    message = too_few_rows(num_test_rows, plan.constraints, plan.gate, len(plan.candidates))
    return [message] if message else []


def _precision_warnings(plan: CompressionPlan, machine: Machine) -> list[str]:
    """Say which schedules ask for a format that the processor lacks: their stages would be refused."""
    if computes_bfloat16(machine.instructions) is not False:
        return []
    places = sorted(_bfloat16_schedules(plan.model_dump(mode="json"), ""))
    if not places:
        return []
    return [
        f"{', '.join(places)}: bfloat16, for which this processor ({machine.processor}) has no instructions, so that "
        "the stage is refused on it; set precision to float32, or run on a machine that has them"
    ]


def _bfloat16_schedules(document: Any, place: str) -> Iterator[str]:
    """Yield the place of every schedule that trains in bfloat16 on a CPU, wherever a spec has it."""
    if isinstance(document, dict):
        if document.get("precision") == "bfloat16":
            yield f"{place}.precision"
        if (document.get("resources") or {}).get("num_gpus", 0) > 0:
            return
        parts: Any = document.items()
    elif isinstance(document, list):
        parts = enumerate(document)
    else:
        return
    for name, value in parts:
        yield from _bfloat16_schedules(value, f"{place}.{name}" if place else str(name))
