"""What an A/B rollout has seen of its two arms, and what may be concluded from it at every look.

The reader of the prediction log fills an `Observation`; nothing in here reads a log or a clock.
Counting rules, so that every reader counts alike (columns: `tasks.contracts.traffic`):

* Only log rows of the rollout (`rollout_id`) count. A row belongs to the step whose weight the route of its
  `route_version` had, not to the step that runs when it is read. Weight 0 is the shadow step.
* With weight > 0 a row belongs to the arm in the column `arm` (the hash's choice), whoever answered; rows with
  `shadow` are left out. At weight 0 the champion's rows are those without `shadow`, the challenger's those with it.
* Rows with `cached` are left out of every count, requests and latencies included: no model ran. The gateway gives
  a cached answer only where it would have done so whichever arm the request had met (both arms' answers to the
  input are known), so what is left is still divided by the weight, and the arms' rows are still alike.
* A row with a non-empty `error` is a failure of its arm. When the champion answered in the challenger's
  place, that is the challenger's failure and nothing of the champion's.
* A labelled row is one with feedback for its (`request_id`, `row`); the last feedback counts. It is correct when
  `prediction` equals `label` (classification) or is off by at most `RolloutPolicy.correct_within`
  (regression; without that field no row is labelled). A failed row with feedback is labelled and not correct.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.decisions.sequential import (
    always_valid_p_value,
    binomial_log_e,
    quantile_bounds,
    rate_lower_bound,
    rate_upper_bound,
)

SAMPLE_RATIO_CONCENTRATIONS = (2.0, 100.0)
"""Requests that the priors around the weight are worth: one for gross mismatches, one for some points."""


def _no_latencies() -> NDArray[np.float64]:
    return np.empty(0, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class ArmStats:
    """What one arm did within one step, cumulative since the step began."""

    requests: int = 0
    """Distinct request ids."""
    errors: int = 0
    """Distinct request ids of which at least one row failed."""
    rows: int = 0
    """Rows of these requests, failed ones included."""
    labelled: int = 0
    """Rows with feedback."""
    correct: int = 0
    """Labelled rows whose answer was right."""
    latencies_ms: NDArray[np.float64] = field(default_factory=_no_latencies)
    """[requests - errors] one value per request that the arm itself answered, in any order."""

    def __post_init__(self) -> None:
        assert 0 <= self.errors <= self.requests, self
        assert 0 <= self.correct <= self.labelled <= self.rows, self


@dataclass(frozen=True)
class PairedCounts:
    """Labelled rows that both arms were asked, by who was right: the shadow step's 2x2 table."""

    both_right: int = 0
    only_champion: int = 0
    only_challenger: int = 0
    both_wrong: int = 0

    @property
    def total(self) -> int:
        """All rows of the table."""
        return self.both_right + self.only_champion + self.only_challenger + self.both_wrong


@dataclass(frozen=True)
class StepTraffic:
    """Both arms at one weight."""

    weight: float
    """Percent of requests that the challenger answered; 0 is the shadow step."""
    champion: ArmStats = field(default_factory=ArmStats)
    challenger: ArmStats = field(default_factory=ArmStats)
    paired: PairedCounts = field(default_factory=PairedCounts)
    """Filled at weight 0 only: elsewhere no request is answered by both arms."""

    def __post_init__(self) -> None:
        assert self.weight == 0.0 or self.paired.total == 0, "paired rows exist in the shadow step only"


@dataclass(frozen=True)
class Observation:
    """Everything seen since the rollout began: one entry per weight that had traffic, each weight once."""

    steps: tuple[StepTraffic, ...] = ()
    unserved: str = ""
    """Why the newest route is not served by every live gateway; empty when it is."""

    def __post_init__(self) -> None:
        weights = [step.weight for step in self.steps]
        assert len(set(weights)) == len(weights), f"a weight occurs twice: {weights}"

    def at(self, weight: float) -> StepTraffic:
        """Return what was seen at `weight`; empty arms if nothing was."""
        return next((step for step in self.steps if step.weight == weight), StepTraffic(weight))


@dataclass(frozen=True)
class Bounds:
    """An estimate with one-sided bounds that hold at all looks together."""

    estimate: float | None
    """None where an arm has shown nothing."""
    lower: float
    upper: float
    num_champion: int
    num_challenger: int


@dataclass(frozen=True)
class SampleRatio:
    """Whether traffic was divided as the route says."""

    mismatch: bool
    p_value: float
    """Always-valid: the chance that a right division ever looks so wrong is at most this."""
    expected: float
    """Challenger's requests if the division were right."""
    observed: int


def division_log_e(challenger: ArrayLike, total: ArrayLike, weight: float) -> NDArray[np.float64]:
    """Return the log e-value against "the requests of one step were divided by its weight", for arrays of any shape.

    The sequential multinomial test of Lindon & Malek 2022 with Beta priors around the weight. 0 in shadow, where
    nothing is divided; at 100 % a single request of the champion's is proof.

    Args:
        challenger: requests that the challenger got.
        total: requests of both arms.
        weight: percent of requests that the challenger should get.
    """
    share = weight / 100.0
    got, of = np.asarray(challenger, dtype=np.float64), np.asarray(total, dtype=np.float64)
    if share == 0.0:
        return np.zeros(np.broadcast_shapes(got.shape, of.shape))
    if share == 1.0:
        return np.where(got < of, np.inf, 0.0)
    mixed = [
        binomial_log_e(got, of, share, (concentration * share, concentration * (1.0 - share)))
        for concentration in SAMPLE_RATIO_CONCENTRATIONS
    ]
    log_e: NDArray[np.float64] = np.logaddexp.reduce(mixed, axis=0) - math.log(len(mixed))
    return log_e


def sample_ratio(observation: Observation, alpha: float) -> SampleRatio:
    """Test whether every step's requests were divided by its weight, at all looks together.

    One e-value per step, multiplied: steps are consecutive and their routes independent.

    Args:
        observation: everything seen so far.
        alpha: chance of an alarm in a whole rollout whose division is right.
    """
    log_e, expected, observed = 0.0, 0.0, 0
    for step in observation.steps:
        if step.weight == 0.0:
            continue
        challenger, total = step.challenger.requests, step.challenger.requests + step.champion.requests
        expected += step.weight / 100.0 * total
        observed += challenger
        log_e += float(division_log_e(challenger, total, step.weight))
    p_value = float(always_valid_p_value(log_e))
    return SampleRatio(p_value <= alpha, p_value, expected, observed)


def champion_reference(observation: Observation, weight: float) -> ArmStats:
    """Return the champion at `weight`, or at the last smaller weight where it had requests (at 100 % it has none)."""
    earlier = sorted((step for step in observation.steps if step.weight <= weight), key=lambda step: -step.weight)
    return next((step.champion for step in earlier if step.champion.requests), ArmStats())


def error_increase(observation: Observation, weight: float, alpha: float) -> Bounds:
    """Bound the challenger's error rate minus the champion's within the step of `weight`.

    Each arm gets its own exact always-valid bound at alpha / 2 (errors are too rare for a normal
    approximation), and the two are subtracted.
    """
    champion, challenger = champion_reference(observation, weight), observation.at(weight).challenger
    estimate = None
    if champion.requests and challenger.requests:
        estimate = challenger.errors / challenger.requests - champion.errors / champion.requests
    lower_new, upper_new = _error_bounds(challenger, alpha / 2.0)
    lower_old, upper_old = _error_bounds(champion, alpha / 2.0)
    return Bounds(estimate, lower_new - upper_old, upper_new - lower_old, champion.requests, challenger.requests)


def latency_ratio(observation: Observation, weight: float, quantile: float, alpha: float) -> Bounds:
    """Bound a latency quantile of the challenger over the champion's within the step of `weight`.

    Each arm's quantile gets an exact always-valid bound at alpha / 2, and the two are divided. The lower bound is 0
    and the upper infinite as long as there are too few requests.
    """
    champion = champion_reference(observation, weight).latencies_ms
    challenger = observation.at(weight).challenger.latencies_ms
    estimate = None
    if len(champion) and len(challenger):
        estimate = float(np.quantile(challenger, quantile) / np.quantile(champion, quantile))
    lower_new, upper_new = quantile_bounds(challenger, quantile, alpha / 2.0)
    lower_old, upper_old = quantile_bounds(champion, quantile, alpha / 2.0)
    lower = lower_new / upper_old if np.isfinite(lower_new) and np.isfinite(upper_old) else 0.0
    upper = upper_new / lower_old if np.isfinite(upper_new) and np.isfinite(lower_old) else math.inf
    return Bounds(estimate, lower, upper, len(champion), len(challenger))


def _error_bounds(arm: ArmStats, alpha: float) -> tuple[float, float]:
    return rate_lower_bound(arm.errors, arm.requests, alpha), rate_upper_bound(arm.errors, arm.requests, alpha)
