"""The gate: one candidate's evidence held against what the plan asks, by one check for each question.

A candidate is tested at alpha / number of candidates (Bonferroni), because the model that is registered is the
best of those that pass: with that share, the chance that any bad candidate of the run passes is at most alpha.
Within a candidate nothing is shared out: all blocking checks must pass, so each may use the whole of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.data import Task
from tasks.contracts.errors import DataError
from tasks.contracts.evaluation import ServingTrial, SplitOutcome
from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.behaviour_checks import (
    brier_check,
    calibration_check,
    class_checks,
    flip_check,
    mcnemar_check,
    robustness_checks,
)
from tasks.decisions.cross_validation import cross_validation_check
from tasks.decisions.gate_checks import (
    accuracy_check,
    champion_check,
    error_check,
    latency_check,
    limit_check,
    macro_f1_check,
    servability_check,
)
from tasks.decisions.gate_policy import Certainty, CheckKind, Constraints, GatePolicy
from tasks.decisions.noninferiority import PairedTable, right_rows
from tasks.decisions.reuse import reuse_check

Asked = dict[CheckKind, Callable[[], list[Check]]]
"""What is asked, by kind, and how it is answered: a check that is skipped costs nothing."""

_REPORTED_QUANTILE = 0.95
"""Held against the limit in every report, blocking or not: users feel the tail."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured of one model. What is missing or empty was not measured."""

    outputs: NDArray[np.float32]
    """[N, K] logits, or [N, 1] predictions, on the rows of the test split in their order."""
    latency_ms: NDArray[np.float64]
    """[R] samples at batch 1, paired by position with those of the other model."""
    size_bytes: int
    memory_bytes: int | None = None
    cold_start_ms: float | None = None
    int8_coverage: float | None = None
    corrupted: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """By the name of the corruption: `outputs` on the corrupted rows."""
    serving: ServingTrial | None = None
    splits: Sequence[SplitOutcome] = ()


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the checks of one candidate have in common."""

    task: Task
    class_names: tuple[str, ...]
    """Empty for regression."""
    labels: NDArray[np.generic]
    """[N] class indices or targets of the test split."""
    constraints: Constraints
    policy: GatePolicy
    num_candidates: int
    """Candidates of the run that are gated."""
    look: int = 1
    """Which look at the test split this is."""
    champion: NDArray[np.float32] | None = None
    """[N, K] outputs of the model that serves, on the same rows, where a retraining has to do as well as it."""

    @property
    def certainty(self) -> Certainty:
        """How sure each check wants to be."""
        policy = self.policy
        return Certainty(
            policy.candidate_alpha(self.num_candidates, self.look), policy.power, policy.bootstrap_resamples
        )


def judge(question: Question, candidate: Evidence, baseline: Evidence) -> tuple[Check, ...]:
    """Hold one candidate's evidence against the constraints. Missing evidence is INCONCLUSIVE, never a pass.

    Returns:
        The checks: blocking ones first.

    Raises:
        DataError: outputs and labels are not of the same rows.
    """
    for name, evidence in (("candidate", candidate), ("baseline", baseline)):
        _require_rows(name, evidence, len(question.labels))
    if question.champion is not None and len(question.champion) != len(question.labels):
        raise DataError(
            f"the champion has {len(question.champion)} outputs for {len(question.labels)} test rows; evaluate it again"
        )
    quality = _of_classes if question.task == "classification" else _of_numbers
    policy = question.policy
    asked = quality(question, candidate, baseline) | _of_cost(question, candidate, baseline)
    asked["servability"] = lambda: [servability_check(candidate.serving)]
    if policy.data_splits:
        asked["cross_validation"] = lambda: [_cross_validation(question, candidate.splits)]
    if (serving := question.champion) is not None:
        asked["champion"] = lambda: [
            champion_check(
                question.task, candidate.outputs, serving, question.labels, question.constraints, question.certainty
            )
        ]
    asked["test_reuse"] = lambda: [reuse_check(question.look, policy.max_test_uses, policy.alpha, policy.test_reuse)]
    checks: list[Check] = []
    for kind, answer in asked.items():
        severity = policy.severity(kind)
        if severity == "skip":
            continue
        checks += [_only_warns(check) if severity == "warn" else check for check in answer()]
    return tuple(sorted(checks, key=lambda check: not check.blocking))


def verdict_of(checks: tuple[Check, ...]) -> Verdict:
    """Return the worst verdict of the blocking checks; INCONCLUSIVE if there is none."""
    return Verdict.worst([check.verdict for check in checks if check.blocking])


def _of_classes(question: Question, candidate: Evidence, baseline: Evidence) -> Asked:
    limits, policy, sure = question.constraints, question.policy, question.certainty
    labels, names = question.labels.astype(np.int64), question.class_names
    ours, theirs = candidate.outputs, baseline.outputs
    ours_right, theirs_right = right_rows(ours, labels), right_rows(theirs, labels)
    table = PairedTable.count(theirs_right, ours_right)
    asked: Asked = {
        "accuracy": lambda: [accuracy_check(table, limits.max_accuracy_drop, sure)],
        "mcnemar": lambda: [mcnemar_check(table, sure)],
        "flips": lambda: [flip_check(ours, theirs, policy.max_flip_rate, sure)],
        "calibration": lambda: [calibration_check(ours, theirs, labels, policy.max_overconfidence_increase, sure)],
        "brier": lambda: [brier_check(ours, theirs, labels, policy.max_brier_increase, sure)],
        "classes": lambda: class_checks(labels, theirs_right, ours_right, names, policy.max_class_accuracy_drop, sure),
        "robustness": lambda: robustness_checks(
            {name: ~right_rows(outputs, labels) for name, outputs in {"": ours, **candidate.corrupted}.items()},
            {name: ~right_rows(outputs, labels) for name, outputs in {"": theirs, **baseline.corrupted}.items()},
            policy.max_robustness_drop,
            sure,
            statistic="mean",
        ),
    }
    if (macro := limits.max_macro_f1_drop) is not None:
        asked["macro_f1"] = lambda: [macro_f1_check(ours, theirs, labels, len(names), macro, sure)]
    return asked


def _of_numbers(question: Question, candidate: Evidence, baseline: Evidence) -> Asked:
    limits, sure, targets = question.constraints, question.certainty, question.labels.astype(np.float64)
    ours, theirs = candidate.outputs, baseline.outputs
    asked: Asked = {
        "rmse": lambda: [error_check("rmse", targets, ours, theirs, limits.max_rmse_increase, sure)],
        "robustness": lambda: robustness_checks(
            {name: _squared_errors(outputs, targets) for name, outputs in {"": ours, **candidate.corrupted}.items()},
            {name: _squared_errors(outputs, targets) for name, outputs in {"": theirs, **baseline.corrupted}.items()},
            question.policy.max_robustness_drop,
            sure,
            statistic="root_mean",
        ),
    }
    if (mae := limits.max_mae_increase) is not None:
        asked["mae"] = lambda: [error_check("mae", targets, ours, theirs, mae, sure)]
    return asked


def _of_cost(question: Question, candidate: Evidence, baseline: Evidence) -> Asked:
    """Return what is asked of size, memory and time: only what has a limit."""
    limits, asked = question.constraints, Asked()
    sizes = [limits.max_size_bytes] if limits.max_size_bytes is not None else []
    if limits.max_size_ratio is not None:
        sizes.append(int(limits.max_size_ratio * baseline.size_bytes))
    if sizes:
        asked["size"] = lambda: [
            limit_check("size", candidate.size_bytes, at_most=min(sizes), reference=baseline.size_bytes)
        ]
    if (memory := limits.max_memory_bytes) is not None:
        asked["memory"] = lambda: [limit_check("memory", candidate.memory_bytes, at_most=memory)]
    if (start := limits.max_cold_start_ms) is not None:
        asked["cold_start"] = lambda: [limit_check("cold_start", candidate.cold_start_ms, at_most=start)]
    if (coverage := limits.min_int8_coverage) is not None:
        asked["int8_coverage"] = lambda: [limit_check("int8_coverage", candidate.int8_coverage, at_least=coverage)]
    if (ratio := limits.max_latency_ratio) is not None:
        asked["latency"] = lambda: _latency(question, candidate.latency_ms, baseline.latency_ms, ratio)
    return asked


def _cross_validation(question: Question, splits: Sequence[SplitOutcome]) -> Check:
    limits, relative = question.constraints, question.task == "regression"
    limit = limits.max_rmse_increase if relative else limits.max_accuracy_drop
    return cross_validation_check(splits, limit, question.certainty, relative=relative)


def _latency(
    question: Question, ours_ms: NDArray[np.float64], theirs_ms: NDArray[np.float64], max_ratio: float
) -> list[Check]:
    policy, sure = question.policy, question.certainty
    checks = []
    for quantile in sorted({*policy.latency_quantiles, _REPORTED_QUANTILE}):
        check = latency_check(ours_ms, theirs_ms, quantile, max_ratio, policy.latency_block_length, sure)
        checks.append(check if quantile in policy.latency_quantiles else _only_warns(check))
    return checks


def _only_warns(check: Check) -> Check:
    return check.model_copy(update={"blocking": False})


def _require_rows(name: str, evidence: Evidence, num_rows: int) -> None:
    for what, outputs in (("", evidence.outputs), *evidence.corrupted.items()):
        if len(outputs) != num_rows:
            under = f" under {what}" if what else ""
            raise DataError(f"the {name} has {len(outputs)} outputs{under} for {num_rows} test rows; evaluate it again")


def _squared_errors(outputs: NDArray[np.float32], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    return (outputs.reshape(len(targets)).astype(np.float64) - targets) ** 2
