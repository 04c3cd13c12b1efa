"""What the closed loop is measured on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drifted_digits import drifted_digits
from tasks.techniques.technique import Arrays

_ROLLOUT = {
    "steps": [0, 25, 50],
    "min_rows_per_arm": 300,
    "accuracy_margin": 0.1,
    "max_latency_ratio": 5.0,
    "tick_seconds": 3,
    "replay": {"split": "validation", "concurrency": 2, "requests_per_second": 400},
}


@dataclass(frozen=True)
class DriftCase:
    """One model whose traffic drifts.

    Attributes:
        told: which rows are which, in a sentence or two.
        plan: the plan's document.
        write_base: writes the file of rows that the plan names into a folder.
        live: drifted rows, sent once as requests with labels as feedback.
        held_out: drifted rows that are never sent before the last leg.
        held_out_original: rows as they were before the drift, likewise.
    """

    told: str
    plan: dict[str, Any]
    write_base: Callable[[Path], None]
    live: Arrays
    held_out: Arrays
    held_out_original: Arrays

    @property
    def name(self) -> str:
        """Of the plan and the model."""
        return str(self.plan["name"])


def digits_case(seed: int) -> DriftCase:
    """Return the digits under a shift of our making."""
    rows = drifted_digits(seed)
    small: dict[str, Any] = {"factory": "tasks.models.resnet:resnet", "kwargs": {"width": 8, "blocks": [1, 1, 1]}}
    shifted = {"shift_pixels": 1}
    plan = {
        "name": "digits",
        "seed": seed,
        "dataset": {
            "source": "npz",
            "name": "digits",
            "path": "digits.npz",
            "split": {"train": 0.45, "calibration": 0.07, "validation": 0.13, "test": 0.35},
            "expect": {"value_min": 0, "value_max": 1, "min_class_share": 0.05, "max_duplicate_share": 0},
        },
        "baseline": {
            "train": {
                "model": small | {"kwargs": {"width": 16, "blocks": [1, 1, 1]}},
                "schedule": {"epochs": 40, "learning_rate": 0.003, "augmentation": shifted},
            }
        },
        "candidates": {
            "student-int8": [
                {
                    "kind": "distill_response",
                    "student": small,
                    "teacher_floor": 0.85,
                    "schedule": {"epochs": 60, "batch_size": 32, "learning_rate": 0.01, "augmentation": shifted},
                },
                {"kind": "quantize_static", "allow_slower": True},
            ]
        },
        "constraints": {"max_accuracy_drop": 0.06, "max_size_ratio": 0.5},
        "rollout": _ROLLOUT,
    }
    return DriftCase(
        told=(
            f"Digits: {len(rows.base.y)} rows as scanned make the first champion; {len(rows.live.y)} others, rotated, "
            f"thickened and paled by us, with their real labels, are the traffic; {len(rows.held_out.y)} more judge, "
            "so changed and as scanned."
        ),
        plan=plan,
        write_base=lambda folder: np.savez(folder / "digits.npz", x=rows.base.x, y=rows.base.y),
        live=rows.live,
        held_out=rows.held_out,
        held_out_original=rows.held_out_original,
    )
