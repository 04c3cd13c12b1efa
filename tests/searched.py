"""The record of a search as tests of recording and of reporting need it."""

from tasks.contracts.run import PlanIdentity
from tasks.contracts.search import Excess, HalfScores, SearchRecord, Trial, TrialFigures

WITHIN = Excess(tuned=-0.01, held=-0.005, size=-0.2)
BASELINE = TrialFigures(scores=HalfScores(tuned=0.99, held=0.98), size_bytes=50_000, flops=9_000)


def tried(number: int, excess: Excess = WITHIN) -> Trial:
    """Return a trial that got to its end."""
    reached = TrialFigures(scores=HalfScores(tuned=0.981, held=0.972), size_bytes=5_000, flops=700)
    values = {"0.temperature": 6.5}
    return Trial(number=number, candidate="student", values=values, figures=reached, excess=excess, seconds=3.21)


FAILED = Trial(number=2, candidate="pruned", values={"0.ratio": 0.7}, failure="TechniqueError: nothing was left")


def searched(*trials: Trial, finalists: tuple[int, ...] = ()) -> SearchRecord:
    """Return the record of a search with these trials."""
    return SearchRecord(
        run_id="run-1",
        started_at="2026-11-29T03:00:00+00:00",
        finished_at="2026-11-29T04:00:00+00:00",
        plan=PlanIdentity(name="digits", digest="0" * 64),
        dataset="digits",
        revision="1",
        metric="accuracy",
        baseline=BASELINE,
        trials=trials,
        finalists=finalists,
    )
