"""Small plans of real stages, and what two runs of one plan must agree on."""

from typing import Any

_WORKER = {"num_gpus": 1}

PLAN: dict[str, Any] = {
    "name": "hosts",
    "dataset": {"source": "digits", "split": {"train": 0.4, "calibration": 0.1, "validation": 0.1, "test": 0.4}},
    "baseline": {
        "train": {
            "model": {"factory": "tasks.models.resnet:resnet", "kwargs": {"width": 12, "blocks": [1, 1, 1]}},
            "schedule": {"epochs": 12, "learning_rate": 0.005, "checkpoint_every": 1},
            "resources": _WORKER,
        }
    },
    "candidates": {
        "student": [
            {
                "kind": "distill_response",
                "student": {"factory": "tasks.models.resnet:resnet", "kwargs": {"width": 8, "blocks": [1, 1, 1]}},
                "schedule": {"epochs": 30, "learning_rate": 0.01, "checkpoint_every": 1},
                "resources": _WORKER,
            },
            {"kind": "quantize_static", "allow_slower": True},
        ]
    },
    "constraints": {"max_accuracy_drop": 0.05},
    "rollout": {
        "steps": [0, 50],
        "min_rows_per_arm": 200,
        "accuracy_margin": 0.06,
        "max_latency_ratio": 5.0,
        "tick_seconds": 2,
        "replay": {"split": "validation", "concurrency": 2, "requests_per_second": 200},
    },
}

FAULT_PLAN = PLAN | {"candidates": {"int8": PLAN["candidates"]["student"][1:]}}
"""Shorter, since it runs once for every fault; the training is what is hit."""


def stages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all stages of a run's candidates."""
    return [stage for candidate in record["candidates"] for stage in candidate["stages"]]


def outcome(record: dict[str, Any]) -> dict[str, Any]:
    """Return what does not depend on the machine: every model's digest, and its quality on the rows."""
    return {
        "data": record["dataset"]["digest"],
        "baseline": record["baseline"]["model"]["digest"],
        "stages": [(stage["kind"], stage["model"]["digest"]) for stage in stages(record)],
        "quality": [stage["evaluation"]["metrics"] for stage in stages(record)],
        "chosen": record["chosen"],
    }
