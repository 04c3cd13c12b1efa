"""Does a candidate's chain keep its quality on other data splits, or was it lucky with this one?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from tasks.contracts.evaluation import SplitOutcome
from tasks.contracts.verdict import Check, Verdict
from tasks.decisions.gate_checks import no_data
from tasks.decisions.gate_policy import Certainty
from tasks.decisions.noninferiority import three_valued

_MIN_SPLITS = 3
_MOST_SPLITS = 100
"""Beyond it nobody is told how many splits would do: the trainings would cost more than another margin."""


@dataclass(frozen=True)
class Losses:
    """How much each data split's candidate lost against that split's baseline."""

    values: tuple[float, ...]
    test_share: float
    """Test rows of a split / its training rows, the mean over the splits."""

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Return the lower and upper bound of the mean loss, each with error rate `alpha`.

        The corrected resampled t-test of Nadeau & Bengio (2003), Machine Learning 52: splits share training rows, so
        the variance of their mean is s^2 (1/k + test rows / training rows) instead of s^2 / k, with k - 1 degrees
        of freedom.
        """
        mean, spread, num = float(np.mean(self.values)), float(np.std(self.values, ddof=1)), len(self.values)
        reach = float(student_t.ppf(1.0 - alpha, num - 1)) * spread * math.sqrt(1.0 / num + self.test_share)
        return mean - reach, mean + reach

    def splits_to_settle(self, limit: float, alpha: float) -> int | None:
        """Return how many splits would settle `limit` if mean and spread stayed as they are; None if too many."""
        distance, spread = abs(limit - float(np.mean(self.values))), float(np.std(self.values, ddof=1))
        for num in range(len(self.values) + 1, _MOST_SPLITS + 1):
            if student_t.ppf(1.0 - alpha, num - 1) * spread * math.sqrt(1.0 / num + self.test_share) < distance:
                return num
        return None


def cross_validation_check(splits: Sequence[SplitOutcome], limit: float, sure: Certainty, *, relative: bool) -> Check:
    """The chain, trained anew on other data splits, loses at most `limit` on average.

    Args:
        splits: what baseline and candidate reached on the test rows of each split.
        limit: tolerated loss: drop of accuracy as a fraction, or increase of the RMSE as a share of the baseline's.
        sure: how sure to be.
        relative: whether the metric is an error, whose increase is a share.
    """
    failed = [outcome for outcome in splits if outcome.candidate is None]
    if failed:
        return no_data(
            "cross_validation", limit, f"the chain failed on data split {failed[0].seed}: {failed[0].failure}"
        )
    if len(splits) < _MIN_SPLITS:
        return no_data("cross_validation", limit, f"{len(splits)} data splits; {_MIN_SPLITS} are needed")
    losses = _losses(splits, relative=relative)
    if losses is None:
        return no_data("cross_validation", limit, "a figure that is not finite, or a baseline without any error")
    lower, upper = losses.bounds(sure.alpha)
    verdict = three_valued(passed=upper < limit, failed=lower > limit)
    return Check(
        name="cross_validation",
        verdict=verdict,
        estimate=float(np.mean(losses.values)),
        bound=lower if verdict is Verdict.FAIL else upper,
        margin=limit,
        num_rows=sum(outcome.num_test for outcome in splits),
        detail=_detail(losses, limit, sure.alpha, settled=verdict is not Verdict.INCONCLUSIVE),
    )


def _losses(splits: Sequence[SplitOutcome], *, relative: bool) -> Losses | None:
    ours = np.array([outcome.candidate for outcome in splits], dtype=np.float64)
    theirs = np.array([outcome.baseline for outcome in splits], dtype=np.float64)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()) or (relative and not theirs.all()):
        return None
    values = (ours - theirs) / theirs if relative else theirs - ours
    test_share = float(np.mean([outcome.num_test / outcome.num_train for outcome in splits]))
    return Losses(tuple(float(value) for value in values), test_share)


def _detail(losses: Losses, limit: float, alpha: float, *, settled: bool) -> str:
    told = f"loss on {len(losses.values)} data splits from {min(losses.values):+.4f} to {max(losses.values):+.4f}"
    if settled:
        return told
    needed = losses.splits_to_settle(limit, alpha)
    return f"{told}; about {needed} splits would settle it" if needed else f"{told}; more splits would hardly settle it"
