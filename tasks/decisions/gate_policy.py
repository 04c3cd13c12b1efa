"""What a plan asks of a candidate, how sure it wants to be, and which answers block."""

import math
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.contracts.data import Task
from tasks.contracts.value import Value
from tasks.decisions.reuse import Reuse, share_of_look

CheckKind = Literal[
    "accuracy",
    "macro_f1",
    "rmse",
    "mae",
    "mcnemar",
    "flips",
    "calibration",
    "brier",
    "classes",
    "robustness",
    "size",
    "memory",
    "cold_start",
    "int8_coverage",
    "latency",
    "servability",
    "cross_validation",
    "test_reuse",
    "champion",
]
"""What the gate can ask; `champion` of retrainings alone. `classes` is one check for each class, `robustness` one for
each corruption, `latency` one for each quantile."""

Severity = Literal["block", "warn", "skip"]
"""`block`: without a PASS no promotion. `warn`: shown beside the verdict. `skip`: not asked."""

_DRAWS_BEYOND_BOUND = 20
"""Fewest bootstrap draws beyond a bound: a percentile that rests on fewer is mostly chance."""

_WARN_BY_DEFAULT: frozenset[CheckKind] = frozenset(
    {"mcnemar", "flips", "calibration", "brier", "classes", "robustness", "cross_validation", "test_reuse"}
)

_QUALITY: dict[Task, tuple[CheckKind, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "regression": ("rmse", "mae"),
}


_MIN_DATA_SPLITS = 3


@dataclass(frozen=True)
class Certainty:
    """How sure one check wants to be."""

    alpha: float
    """One-sided error rate of each bound."""
    power: float
    """Probability with which the rows that a check asks for would settle it."""
    wanted_resamples: int

    @property
    def num_resamples(self) -> int:
        """Bootstrap resamples: so many that some lie beyond a bound at this level."""
        return max(self.wanted_resamples, math.ceil(_DRAWS_BEYOND_BOUND / self.alpha))


class Constraints(Value):
    """What a compressed model must keep and reach. A limit that is not given is not checked."""

    max_accuracy_drop: float = Field(
        default=0.01, gt=0.0, lt=1.0, description="Tolerated drop of test accuracy, as a fraction: 0.01 is one point."
    )
    max_macro_f1_drop: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description="Tolerated drop of the test split's macro F1, where all classes count alike, as a fraction.",
    )
    max_rmse_increase: float = Field(
        default=0.02, gt=0.0, description="Regression: tolerated increase of the test RMSE, relative to the baseline's."
    )
    max_mae_increase: float | None = Field(
        default=None, gt=0.0, description="Regression: tolerated increase of the test MAE, relative to the baseline's."
    )
    max_size_ratio: float | None = Field(
        default=None, gt=0.0, description="Largest size at rest, as a share of the baseline's FP32 ONNX file."
    )
    max_size_bytes: int | None = Field(default=None, gt=0, description="Largest size at rest, bytes.")
    max_latency_ratio: float | None = Field(
        default=None, gt=0.0, description="Largest latency at batch 1, as a multiple of the baseline's ONNX."
    )
    max_memory_bytes: int | None = Field(default=None, gt=0, description="Largest peak memory, bytes.")
    max_cold_start_ms: float | None = Field(
        default=None, gt=0.0, description="Longest time from a fresh session to the first answer, milliseconds."
    )
    min_int8_coverage: float | None = Field(
        default=None, gt=0.0, le=1.0, description="Smallest share of convolutions and matrix products that run in int8."
    )


class GatePolicy(Value):
    """How sure the gate wants to be, and which of its checks block."""

    alpha: float = Field(
        default=0.05,
        gt=0.0,
        lt=0.5,
        description="Chance that any bad candidate of a run passes; shared by the candidates.",
    )
    power: float = Field(
        default=0.8, ge=0.5, lt=1.0, description="Power at which the rows that would settle a check are computed."
    )
    checks: dict[CheckKind, Severity] = Field(
        default={},
        description="Which checks `block`, only `warn`, or are `skip`ped. By default flips, calibration, brier, "
        "classes, robustness, mcnemar, cross_validation and test_reuse warn, and all others block.",
    )
    bootstrap_resamples: int = Field(default=2000, ge=200, le=100_000, description="Resamples behind bootstrap bounds.")
    assumed_discordance: float = Field(
        default=0.02,
        gt=0.0,
        lt=1.0,
        description="For planning: share of test rows on which exactly one of baseline and candidate is right.",
    )
    assumed_drop: float = Field(default=0.0, ge=0.0, lt=1.0, description="For planning: true drop of a good candidate.")
    latency_quantiles: tuple[float, ...] = Field(
        default=(0.5,), min_length=1, description="Quantiles that must keep the latency ratio; p95 is reported anyway."
    )
    latency_block_length: int = Field(
        default=10, ge=1, description="Neighbouring latency samples that are resampled together, as they correlate."
    )
    max_class_accuracy_drop: float = Field(
        default=0.05, gt=0.0, lt=1.0, description="Check `classes`: tolerated drop of any one class's recall."
    )
    max_flip_rate: float = Field(
        default=0.05, gt=0.0, lt=1.0, description="Check `flips`: share of rows whose answer may change."
    )
    max_overconfidence_increase: float = Field(
        default=0.02,
        gt=0.0,
        lt=1.0,
        description="Check `calibration`: tolerated increase of mean confidence minus accuracy.",
    )
    max_brier_increase: float = Field(
        default=0.02, gt=0.0, lt=2.0, description="Check `brier`: tolerated increase of the Brier score, from 0 to 2."
    )
    max_robustness_drop: float = Field(
        default=0.03,
        gt=0.0,
        lt=1.0,
        description="Check `robustness`: how much more than the baseline a candidate may lose when its input is "
        "corrupted: accuracy as a fraction; for regression RMSE as a share of the baseline's.",
    )
    data_splits: int = Field(
        default=0,
        ge=0,
        le=20,
        description="Check `cross_validation`: further data splits on which the baseline is trained and every chain is "
        "run anew, each at the cost of the whole run; 0 asks nothing, 1 and 2 are too few.",
    )
    test_reuse: Reuse = Field(
        default="warn",
        description="What is done when a test split was used by earlier runs: `warn` says so and how likely a lucky "
        "pass is by now; `share` spends alpha over all uses, so that each run is stricter than the one before it.",
    )
    max_test_uses: int = Field(
        default=20, ge=1, description="Check `test_reuse`: runs of new models after which a test split is worn out."
    )

    @model_validator(mode="after")
    def _enough_splits_for_a_spread(self) -> Self:
        if 0 < self.data_splits < _MIN_DATA_SPLITS:
            raise ValueError(
                f"data_splits: {self.data_splits} splits say nothing of their spread; give {_MIN_DATA_SPLITS} or more, "
                "or 0 for none"
            )
        return self

    @model_validator(mode="after")
    def _a_difference_test_cannot_block(self) -> Self:
        if self.checks.get("mcnemar") == "block":
            raise ValueError(
                "checks: mcnemar asks whether there is any difference, so that a candidate as good as the baseline "
                "would never pass; let it warn, and let accuracy block"
            )
        return self

    def severity(self, kind: CheckKind) -> Severity:
        """Return what a check's answer does."""
        return self.checks.get(kind, "warn" if kind in _WARN_BY_DEFAULT else "block")

    def run_alpha(self, look: int) -> float:
        """Return the chance that any bad candidate of a run passes that is look number `look` at its test split."""
        return self.alpha * share_of_look(look) if self.test_reuse == "share" else self.alpha

    def candidate_alpha(self, num_candidates: int, look: int = 1) -> float:
        """Return the error rate of each check of one candidate out of so many, at look number `look`."""
        return self.run_alpha(look) / num_candidates


def why_quality_is_unguarded(task: Task, constraints: Constraints, policy: GatePolicy) -> str | None:
    """Say why a candidate would pass however wrong its answers are; None if a check of quality blocks."""
    limits: dict[CheckKind, float | None] = {
        "accuracy": constraints.max_accuracy_drop,
        "macro_f1": constraints.max_macro_f1_drop,
        "rmse": constraints.max_rmse_increase,
        "mae": constraints.max_mae_increase,
    }
    if any(limits[kind] is not None and policy.severity(kind) == "block" for kind in _QUALITY[task]):
        return None
    first, second = _QUALITY[task]
    return (
        f"gate.checks: neither {first} nor {second} blocks, so that a candidate would pass however wrong its answers "
        f"are; let {first} block, or give constraints a limit for {second}"
    )
