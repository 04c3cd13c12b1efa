"""What the closed loop is measured on: digits that drift, and a second year of bike-sharing if given."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drifted_digits import drifted_digits
from tasks.datasets.csv import Csv
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


def bikes_case(path: Path, seed: int, scratch: Path) -> DriftCase:
    """Return the hourly rentals of Capital Bikeshare: 2011 makes the champion, 2012 is the drift that really happened.

    Args:
        path: `hour.csv` of the UCI data set 275 (Fanaee-T and Gama 2013).
        seed: of the plan.
        scratch: a folder for the parts of the file.
    """
    import pandas as pd

    table = pd.read_csv(path)
    day = pd.to_datetime(table["dteday"]).dt.dayofyear
    first_year = table["yr"] == 0
    parts = {
        "bikes": table[first_year & (day % 5 != 0)],
        "original": table[first_year & (day % 5 == 0)],
        "live": table[~first_year & (day % 3 != 0)],
        "held-out": table[~first_year & (day % 3 == 0)],
    }
    source = {
        "source": "csv",
        "name": "bikes",
        "path": "bikes.csv",
        "task": "regression",
        "target": "cnt",
        "target_scale": 0.01,
        "exclude": ["instant", "dteday", "yr", "casual", "registered"],
        "expect": {"target_min": 0, "target_max": 20},
    }
    for name, part in parts.items():
        part.to_csv(scratch / f"{name}.csv", index=False)
    rows = {
        name: Csv.model_validate(source | {"path": str(scratch / f"{name}.csv")}).load(scratch)
        for name in ("original", "live", "held-out")
    }
    scaled = {"output_scale": 1.3, "output_offset": 1.4}
    fast = {"batch_size": 128, "learning_rate": 0.003}
    plan = {
        "name": "bikes",
        "seed": seed,
        "dataset": source,
        "baseline": {
            "train": {
                "model": {"factory": "tasks.models.mlp:mlp", "kwargs": {"hidden": [128, 128]} | scaled},
                "schedule": fast | {"epochs": 60},
            }
        },
        "candidates": {
            "student-int8": [
                {
                    "kind": "distill_response",
                    "student": {"factory": "tasks.models.mlp:mlp", "kwargs": {"hidden": [96, 64]} | scaled},
                    "schedule": fast | {"epochs": 80},
                },
                {"kind": "quantize_static", "first_last_float": True, "allow_slower": True},
            ]
        },
        "constraints": {"max_rmse_increase": 0.15, "max_size_ratio": 0.8},
        "rollout": _ROLLOUT | {"correct_within": 0.5},
    }
    return DriftCase(
        told=(
            f"Bike rentals by the hour: {len(parts['bikes'])} rows of 2011 make the first champion; "
            f"{len(parts['live'])} of 2012 are the traffic; every third day of 2012 and every fifth of 2011 judge. "
            "Errors are in hundreds of rentals."
        ),
        plan=plan,
        write_base=lambda folder: parts["bikes"].to_csv(folder / "bikes.csv", index=False),
        live=Arrays(rows["live"].x, rows["live"].y),
        held_out=Arrays(rows["held-out"].x, rows["held-out"].y),
        held_out_original=Arrays(rows["original"].x, rows["original"].y),
    )
