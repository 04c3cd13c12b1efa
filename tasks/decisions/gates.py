"""The gate: what a plan asks of a candidate, how sure it wants to be, and the checks that answer.

A candidate is tested at alpha / number of candidates (Bonferroni), because the model that is registered is the
best of those that pass: with that share, the chance that any bad candidate of the run passes is at most alpha.
Within a candidate nothing is shared out: all blocking checks must pass, so each may use the whole of it.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.contracts.data import Task
from tasks.contracts.errors import DataError
from tasks.contracts.value import Value
from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.gate_checks import accuracy_check, latency_check, limit_check, rmse_check
from tasks.decisions.noninferiority import PairedTable, rows_needed
from tasks.decisions.reported_checks import calibration_check, class_checks, flip_check, mcnemar_check

_REPORTED_QUANTILE = 0.95
"""Held against the limit in every report, blocking or not: users feel the tail."""


class Constraints(Value):
    """What a compressed model must keep and reach. A limit that is not given is not checked."""

    max_accuracy_drop: float = Field(
        default=0.01, gt=0.0, lt=1.0, description="Tolerated drop of test accuracy, as a fraction: 0.01 is one point."
    )
    max_rmse_increase: float = Field(
        default=0.02, gt=0.0, description="Regression: tolerated increase of the test RMSE, relative to the baseline's."
    )
    max_size_ratio: float | None = Field(
        default=None, gt=0.0, description="Largest size at rest, as a share of the baseline's FP32 ONNX file."
    )
    max_size_bytes: int | None = Field(default=None, gt=0, description="Largest size at rest, bytes.")
    max_latency_ratio: float | None = Field(
        default=None, gt=0.0, description="Largest latency at batch 1, as a multiple of the baseline's ONNX."
    )
    max_memory_bytes: int | None = Field(default=None, gt=0, description="Largest peak memory, bytes.")


class GatePolicy(Value):
    """How sure the gate wants to be."""

    alpha: float = Field(
        default=0.05,
        gt=0.0,
        lt=0.5,
        description="Chance that any bad candidate of a run passes; shared by the candidates.",
    )
    power: float = Field(
        default=0.8, ge=0.5, lt=1.0, description="Power at which the rows that would settle a check are computed."
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
        default=0.05, gt=0.0, lt=1.0, description="Reported, not blocking: tolerated drop of any one class's recall."
    )
    max_flip_rate: float = Field(
        default=0.05, gt=0.0, lt=1.0, description="Reported, not blocking: share of rows whose answer may change."
    )
    max_overconfidence_increase: float = Field(
        default=0.02,
        gt=0.0,
        lt=1.0,
        description="Reported, not blocking: tolerated increase of mean confidence minus accuracy.",
    )

    def candidate_alpha(self, num_candidates: int) -> float:
        """Return the error rate of each check of one candidate out of so many."""
        return self.alpha / num_candidates


def judge(
    *,
    task: Task,
    class_names: tuple[str, ...],
    labels: NDArray[np.generic],
    candidate_outputs: NDArray[np.float32],
    baseline_outputs: NDArray[np.float32],
    candidate_latency_ms: NDArray[np.float64],
    baseline_latency_ms: NDArray[np.float64],
    candidate_size_bytes: int,
    baseline_size_bytes: int,
    candidate_memory_bytes: int | None,
    constraints: Constraints,
    policy: GatePolicy,
    num_candidates: int,
) -> tuple[Check, ...]:
    """Hold one candidate's evidence against the constraints. Missing evidence is INCONCLUSIVE, never a pass.

    Args:
        task: decides which quality is tested.
        class_names: empty for regression.
        labels: [N] class indices or targets of the test split.
        candidate_outputs: [N, K] logits, or [N, 1] predictions, in the order of `labels`.
        baseline_outputs: the same of the baseline.
        candidate_latency_ms: [R] samples at batch 1, paired by position with the baseline's.
        baseline_latency_ms: [R].
        candidate_size_bytes: size at rest.
        baseline_size_bytes: size at rest of the baseline's FP32 ONNX file.
        candidate_memory_bytes: peak memory; None if it was not measured.
        constraints: what is asked.
        policy: how sure.
        num_candidates: candidates of the run that are gated.

    Raises:
        DataError: outputs and labels are not of the same rows.
    """
    for name, outputs in (("candidate", candidate_outputs), ("baseline", baseline_outputs)):
        if len(outputs) != len(labels):
            raise DataError(f"the {name} has {len(outputs)} outputs for {len(labels)} test rows; evaluate it again")
    alpha = policy.candidate_alpha(num_candidates)
    if task == "classification":
        classes = labels.astype(np.int64)
        quality = _classification_checks(
            classes, candidate_outputs, baseline_outputs, class_names, constraints, policy, alpha
        )
    else:
        targets, margin = labels.astype(np.float64), constraints.max_rmse_increase
        resamples = policy.bootstrap_resamples
        quality = [rmse_check(targets, candidate_outputs, baseline_outputs, margin, alpha, policy.power, resamples)]
    checks = [
        *quality,
        *_footprint_checks(candidate_size_bytes, baseline_size_bytes, candidate_memory_bytes, constraints),
        *_latency_checks(candidate_latency_ms, baseline_latency_ms, constraints.max_latency_ratio, policy, alpha),
    ]
    return tuple(sorted(checks, key=lambda check: not check.blocking))


def verdict_of(checks: tuple[Check, ...]) -> Verdict:
    """Return the worst verdict of the blocking checks; INCONCLUSIVE if there is none."""
    return Verdict.worst([check.verdict for check in checks if check.blocking])


def rows_to_settle(constraints: Constraints, policy: GatePolicy, num_candidates: int) -> int | None:
    """Return the test rows that settle the accuracy margin under the policy's assumptions; None if no number does."""
    return rows_needed(
        policy.assumed_discordance,
        policy.assumed_drop,
        constraints.max_accuracy_drop,
        policy.candidate_alpha(num_candidates),
        policy.power,
    )


def too_few_rows(num_rows: int, constraints: Constraints, policy: GatePolicy, num_candidates: int) -> str | None:
    """Say why a test split of `num_rows` rows cannot settle the accuracy margin; None if it can."""
    needed = rows_to_settle(constraints, policy, num_candidates)
    margin = constraints.max_accuracy_drop
    if needed is None:
        return (
            f"no number of test rows settles a margin of {margin:g} for a candidate whose accuracy drops by "
            f"{policy.assumed_drop:g}; raise constraints.max_accuracy_drop or lower gate.assumed_drop"
        )
    if num_rows >= needed:
        return None
    return (
        f"this test split of {num_rows} rows cannot settle a margin of {margin:g}: needs about {needed} rows "
        f"({num_candidates} candidates, alpha {policy.alpha:g}, power {policy.power:g}, "
        f"{policy.assumed_discordance:.1%} of the rows answered right by only one model); raise "
        "constraints.max_accuracy_drop, use more test rows, or compare fewer candidates"
    )


def _classification_checks(
    labels: NDArray[np.int64],
    candidate_outputs: NDArray[np.float32],
    baseline_outputs: NDArray[np.float32],
    class_names: tuple[str, ...],
    constraints: Constraints,
    policy: GatePolicy,
    alpha: float,
) -> list[Check]:
    candidate_right, baseline_right = right_rows(candidate_outputs, labels), right_rows(baseline_outputs, labels)
    table = PairedTable.count(baseline_right, candidate_right)
    return [
        accuracy_check(table, constraints.max_accuracy_drop, alpha, policy.power),
        mcnemar_check(table, alpha),
        flip_check(candidate_outputs, baseline_outputs, policy.max_flip_rate, alpha),
        calibration_check(
            candidate_outputs,
            baseline_outputs,
            labels,
            policy.max_overconfidence_increase,
            alpha,
            policy.power,
            policy.bootstrap_resamples,
        ),
        *class_checks(
            labels,
            baseline_right,
            candidate_right,
            class_names,
            policy.max_class_accuracy_drop,
            alpha,
            policy.power,
        ),
    ]


def _footprint_checks(
    size_bytes: int, baseline_size_bytes: int, memory_bytes: int | None, constraints: Constraints
) -> list[Check]:
    checks, size_limits = [], []
    if constraints.max_size_bytes is not None:
        size_limits.append(constraints.max_size_bytes)
    if constraints.max_size_ratio is not None:
        size_limits.append(int(constraints.max_size_ratio * baseline_size_bytes))
    if size_limits:
        checks.append(limit_check("size", size_bytes, min(size_limits), baseline_size_bytes))
    if constraints.max_memory_bytes is not None:
        checks.append(limit_check("memory", memory_bytes, constraints.max_memory_bytes, None))
    return checks


def _latency_checks(
    candidate_ms: NDArray[np.float64],
    baseline_ms: NDArray[np.float64],
    max_ratio: float | None,
    policy: GatePolicy,
    alpha: float,
) -> list[Check]:
    if max_ratio is None:
        return []
    return [
        latency_check(
            candidate_ms,
            baseline_ms,
            quantile,
            max_ratio,
            alpha,
            policy.power,
            policy.bootstrap_resamples,
            policy.latency_block_length,
            blocking=quantile in policy.latency_quantiles,
        )
        for quantile in sorted({*policy.latency_quantiles, _REPORTED_QUANTILE})
    ]


def right_rows(outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return [N] whether the largest output is the label's; a row with an output that is not finite is wrong."""
    if len(labels) == 0:
        return np.zeros(0, dtype=np.bool_)
    right: NDArray[np.bool_] = (outputs.argmax(axis=1) == labels) & np.isfinite(outputs).all(axis=1)
    return right
