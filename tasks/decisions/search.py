"""A search's decisions: what is held out from it, which limits a chain breaks, and which chains the gate shall see.

A search that goes by a score on some rows finds, among the good chains, those that were lucky on these rows. So it
goes by one half of the validation split, and its finalists are chosen by the other.
"""

from collections.abc import Sequence

import numpy as np

from tasks.contracts.evaluation import METRIC_DIRECTIONS
from tasks.contracts.search import Excess, Trial, TrialFigures
from tasks.decisions.gate_policy import Constraints
from tasks.decisions.pareto import Figures, Objective, Preference, pareto_front

SIZE, FLOPS, QUALITY = "size_bytes", "flops", "quality"
OBJECTIVES = (Objective(QUALITY, "higher"), Objective(SIZE, "lower"), Objective(FLOPS, "lower"))
"""What a search weighs. FLOPs stand for latency: times of models that were not timed together cannot be compared."""

_FIRST: dict[Preference, tuple[str, ...]] = {
    "smallest": (SIZE, FLOPS),
    "fastest": (FLOPS, SIZE),
    "most_accurate": (QUALITY, SIZE),
}


def halves(y_N: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows into two halves with the same labels: of rows sorted by label, drawn in pairs, one goes to each.

    Args:
        y_N: labels, or targets of a regression, [N], at least 2.
        seed: of what goes where.

    Returns:
        Positions of the rows, ascending; the first half has the odd one.

    Raises:
        ValueError: there are fewer than 2 rows.
    """
    if len(y_N) < 2:
        raise ValueError(f"a search divides the validation split in two, and it has {len(y_N)} rows; give it more")
    generator = np.random.default_rng(seed)
    shuffled_N = generator.permutation(len(y_N))
    sorted_N = shuffled_N[np.argsort(y_N[shuffled_N], kind="stable")]
    return np.sort(sorted_N[::2]), np.sort(sorted_N[1::2])


def excess_of(metric: str, figures: TrialFigures, baseline: TrialFigures, constraints: Constraints) -> Excess:
    """Return by how much a chain is beyond the limits of accuracy (or RMSE) and size."""
    return Excess(
        tuned=_loss(metric, figures.scores.tuned, baseline.scores.tuned, constraints),
        held=_loss(metric, figures.scores.held, baseline.scores.held, constraints),
        size=_size_excess(figures.size_bytes, baseline.size_bytes, constraints),
    )


def _loss(metric: str, score: float, baseline: float, constraints: Constraints) -> float:
    if metric == "accuracy":
        return baseline - score - constraints.max_accuracy_drop
    return score / baseline - 1.0 - constraints.max_rmse_increase


def _size_excess(size_bytes: int, baseline_bytes: int, constraints: Constraints) -> float:
    limits = []
    if constraints.max_size_ratio is not None:
        limits.append(constraints.max_size_ratio * baseline_bytes)
    if constraints.max_size_bytes is not None:
        limits.append(float(constraints.max_size_bytes))
    return size_bytes / min(limits) - 1.0 if limits else 0.0


def objectives(metric: str, figures: TrialFigures, *, held: bool) -> Figures:
    """Return the values of `OBJECTIVES`; an error counts negative as quality."""
    score = figures.scores.held if held else figures.scores.tuned
    quality = score if METRIC_DIRECTIONS[metric] == "higher" else -score
    return {QUALITY: quality, SIZE: float(figures.size_bytes), FLOPS: float(figures.flops)}


def choose_finalists(trials: Sequence[Trial], metric: str, preference: Preference, number: int) -> tuple[int, ...]:
    """Return the trials that the gate shall judge, the preferred end of the front first.

    Of the chains within all limits on both halves, those that none other beats on the held half are sorted by what
    the plan prefers, and `number` of them are taken at even distances: the most compressed is the one most likely to
    miss the gate, and a gentler one is then judged too. Equal chains count once.
    """
    points: dict[str, Figures] = {}
    seen: set[tuple[float, ...]] = set()
    for trial in trials:
        if trial.figures is None or not trial.is_within_limits:
            continue
        point = objectives(metric, trial.figures, held=True)
        if tuple(point.values()) not in seen:
            seen.add(tuple(point.values()))
            points[str(trial.number)] = point
    front = sorted(pareto_front(points, OBJECTIVES), key=lambda name: _rank(points[name], preference))
    positions = np.linspace(0, len(front) - 1, min(number, len(front))).round().astype(int)
    return tuple(int(front[position]) for position in positions)


def _rank(point: Figures, preference: Preference) -> tuple[float, ...]:
    return tuple(-point[name] if name == QUALITY else point[name] for name in _FIRST[preference])
