"""The always-valid comparison of two arms' accuracy during a rollout: shadow rows and split rows together."""

from collections.abc import Callable
from dataclasses import dataclass

from tasks.decisions.experiment import Bounds, Observation, PairedCounts
from tasks.decisions.noninferiority import restricted_variance
from tasks.decisions.sequential import crossing, drift_log_e

_EDGE = 1e-6
_WIDE_SCALE = 10.0
"""The test is tuned for differences of the margin and of so many times the margin (a broken model)."""

Variance = Callable[[float], float]
"""Of an estimate, under a hypothesised difference."""


@dataclass(frozen=True)
class Evidence:
    """What all labelled rows of a rollout say of p_challenger - p_champion."""

    estimate: float
    parts: tuple[tuple[float, Variance], ...]
    """Share in the estimate, and variance, of each of the independent estimates."""
    scales: tuple[float, float]

    def log_e(self, hypothesis: float) -> float:
        """Return the log e-value against "the difference is `hypothesis`", alternatives on the estimate's side."""
        variance = sum(share**2 * variance_at(hypothesis) for share, variance_at in self.parts)
        return drift_log_e(abs(self.estimate - hypothesis) / variance, 1.0 / variance, self.scales)


def accuracy_evidence(observation: Observation, margin: float) -> Evidence | None:
    """Join what the shadow step and the split steps say of the difference; None without labelled rows of both arms.

    Two independent estimates are weighted by their observed information (inverse variance): the paired one of the
    shadow step, and the split steps' Mantel-Haenszel difference, in which every step is compared within
    itself. Pooling the steps instead would let a change of the traffic between two steps of different weight
    pass for a difference between the models (Simpson's paradox).

    Args:
        observation: everything seen so far.
        margin: the difference that matters, a fraction; the test is tuned for it.
    """
    return _joined(_shadow_table(observation), _SplitRows.of(observation), margin)


def accuracy_difference(observation: Observation, margin: float, alpha: float) -> Bounds:
    """Bound p_challenger - p_champion from all labelled rows of the rollout, at all looks at once.

    The joint score of `accuracy_evidence` is tested by `drift_log_e`. Its variance at a hypothesised difference is
    the larger of the observed one (smoothed) and the one restricted to the hypothesis: a small arm that happens to
    make no mistake must not seem certain. Monte Carlo in the tests: size below 0.05 with 200 looks at arms of 5 and
    95 %.

    Args:
        observation: everything seen so far.
        margin: the difference that matters, a fraction; the test is tuned for it.
        alpha: error rate of each bound, over all looks together.
    """
    paired, split = _shadow_table(observation), _SplitRows.of(observation)
    num_champion, num_challenger = paired.total + split.num_champion, paired.total + split.num_challenger
    evidence = _joined(paired, split, margin)
    if evidence is None:
        return Bounds(None, -1.0, 1.0, num_champion, num_challenger)
    return Bounds(
        evidence.estimate,
        crossing(evidence.log_e, evidence.estimate, -1.0 + _EDGE, alpha),
        crossing(evidence.log_e, evidence.estimate, 1.0 - _EDGE, alpha),
        num_champion,
        num_challenger,
    )


def _joined(paired: PairedCounts, split: "_SplitRows", margin: float) -> Evidence | None:
    parts: list[tuple[float, Variance, float]] = []
    if paired.total:
        parts.append((_paired_difference(paired), _paired_variance(paired), _smoothed_paired_variance(paired)))
    if split.weight:
        parts.append((split.difference, split.variance, split.smoothed_variance))
    if not parts:
        return None
    total = sum(1.0 / observed for _, _, observed in parts)
    shares = [1.0 / (observed * total) for _, _, observed in parts]
    return Evidence(
        estimate=sum(share * part[0] for share, part in zip(shares, parts, strict=True)),
        parts=tuple((share, part[1]) for share, part in zip(shares, parts, strict=True)),
        scales=(margin, min(_WIDE_SCALE * margin, 0.5)),
    )


def _shadow_table(observation: Observation) -> PairedCounts:
    return observation.at(0.0).paired


def _paired_difference(table: PairedCounts) -> float:
    return (table.only_challenger - table.only_champion) / table.total


def _smoothed_paired_variance(table: PairedCounts) -> float:
    """Observed variance of the paired difference, with half a lost and half a won row added."""
    lost = (table.only_champion + 0.5) / (table.total + 1.0)
    won = (table.only_challenger + 0.5) / (table.total + 1.0)
    return (lost + won - (lost - won) ** 2) / table.total


def _paired_variance(table: PairedCounts) -> Variance:
    observed = _smoothed_paired_variance(table)

    def variance(difference: float) -> float:
        restricted = restricted_variance(table.only_champion, table.only_challenger, table.total, difference)
        return max(observed, restricted / table.total)

    return variance


@dataclass(frozen=True)
class _SplitRows:
    """Labelled rows of the steps in which both arms answered, and their Mantel-Haenszel weights."""

    num_champion: int
    num_challenger: int
    correct_champion: int
    correct_challenger: int
    difference: float
    """Sum of w (p_challenger - p_champion) over the steps / sum of w, with w = n m / (n + m) rows."""
    weight: float
    """Sum of w; 0 if no step has labelled rows of both arms."""
    per_champion_variance: float
    """Variance of `difference` for each unit of variance of one champion's row: sum of w^2 / n / (sum of w)^2."""
    per_challenger_variance: float

    @classmethod
    def of(cls, observation: Observation) -> "_SplitRows":
        steps = [
            (step.champion, step.challenger)
            for step in observation.steps
            if step.weight > 0.0 and step.champion.labelled and step.challenger.labelled
        ]
        weights = [old.labelled * new.labelled / (old.labelled + new.labelled) for old, new in steps]
        total = sum(weights)
        weighted = list(zip(weights, steps, strict=True))
        return cls(
            num_champion=sum(old.labelled for old, _ in steps),
            num_challenger=sum(new.labelled for _, new in steps),
            correct_champion=sum(old.correct for old, _ in steps),
            correct_challenger=sum(new.correct for _, new in steps),
            difference=sum(w * (new.correct / new.labelled - old.correct / old.labelled) for w, (old, new) in weighted)
            / (total or 1.0),
            weight=total,
            per_champion_variance=sum(w**2 / old.labelled for w, (old, _) in weighted) / (total or 1.0) ** 2,
            per_challenger_variance=sum(w**2 / new.labelled for w, (_, new) in weighted) / (total or 1.0) ** 2,
        )

    @property
    def smoothed_variance(self) -> float:
        """Observed variance of `difference`, with one success and one failure added to each arm.

        Rates are pooled over the steps; where steps differ, that overstates the variance.
        """
        return self._combined(
            (self.correct_champion + 1.0) / (self.num_champion + 2.0),
            (self.correct_challenger + 1.0) / (self.num_challenger + 2.0),
        )

    def variance(self, difference: float) -> float:
        """Variance of the estimate, the larger of the observed one and the one under the hypothesis."""
        rows = self.num_champion + self.num_challenger
        champion = (self.correct_champion + self.correct_challenger - self.num_challenger * difference) / rows
        champion = min(max(champion, 0.0, -difference), 1.0, 1.0 - difference)
        return max(self.smoothed_variance, self._combined(champion, champion + difference))

    def _combined(self, champion: float, challenger: float) -> float:
        return self.per_champion_variance * champion * (1.0 - champion) + self.per_challenger_variance * challenger * (
            1.0 - challenger
        )
