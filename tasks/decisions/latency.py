"""Is the candidate's latency quantile at most so many times the baseline's? Paired, interleaved samples."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.contracts.errors import DataError
from tasks.contracts.verdict import Verdict
from tasks.decisions.bootstrap import resampled_positions, samples_to_settle
from tasks.decisions.noninferiority import three_valued

_TAIL_SAMPLES = 5
"""Fewest samples beyond a quantile from which a bootstrap of that quantile is trusted."""


@dataclass(frozen=True)
class LatencyRatio:
    """The answer, with one-sided confidence bounds of the ratio candidate / baseline."""

    verdict: Verdict
    estimate: float | None
    lower: float | None
    upper: float | None
    num_samples: int
    num_samples_needed: int | None
    """For an INCONCLUSIVE verdict: samples that would settle it; None if no number would."""


def judge_latency(
    candidate_ms: NDArray[np.float64],
    baseline_ms: NDArray[np.float64],
    quantile: float,
    max_ratio: float,
    alpha: float,
    *,
    power: float = 0.8,
    num_resamples: int = 2000,
    block_length: int = 1,
    seed: int = 0,
) -> LatencyRatio:
    """Hold the ratio of a latency quantile against `max_ratio`.

    Args:
        candidate_ms: [N] milliseconds, paired by position with `baseline_ms` (measured in turn).
        baseline_ms: [N] milliseconds.
        quantile: 0.5 for p50, 0.95 for p95.
        max_ratio: PASS if the upper bound is not above it, FAIL if the lower bound is.
        alpha: one-sided error rate of each bound.
        power: probability with which `num_samples_needed` samples would settle it.
        num_resamples: bootstrap resamples; both bounds are percentiles of them.
        block_length: neighbours drawn together, for samples that are correlated in time.
        seed: of the resampling.

    Raises:
        DataError: the two arrays differ in length.
    """
    if candidate_ms.shape != baseline_ms.shape:
        raise DataError(
            f"latency samples must be paired, but there are {len(candidate_ms)} of the candidate and "
            f"{len(baseline_ms)} of the baseline; take both from one timing table"
        )
    num = len(candidate_ms)
    fewest = math.ceil(round(_TAIL_SAMPLES / min(quantile, 1.0 - quantile), 6))
    if num < fewest:
        return LatencyRatio(Verdict.INCONCLUSIVE, None, None, None, num, fewest)
    logs = np.concatenate(
        [
            np.log(np.quantile(candidate_ms[positions], quantile, axis=1))
            - np.log(np.quantile(baseline_ms[positions], quantile, axis=1))
            for positions in resampled_positions(num, num_resamples, seed, block_length)
        ]
    )
    lower, upper = (float(bound) for bound in np.exp(np.quantile(logs, [alpha, 1.0 - alpha])))
    estimate = float(np.quantile(candidate_ms, quantile) / np.quantile(baseline_ms, quantile))
    verdict = three_valued(passed=upper <= max_ratio, failed=lower > max_ratio)
    needed = None
    if verdict is Verdict.INCONCLUSIVE:
        needed = samples_to_settle(num, float(logs.std()), math.log(max_ratio / estimate), alpha, power)
    return LatencyRatio(verdict, estimate, lower, upper, num, needed)
