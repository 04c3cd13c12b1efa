"""The chains of a search as futures, and as the trials that become of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from prefect import get_run_logger
from prefect.futures import PrefectFuture

from flows.candidates import Baseline, PendingCandidate, start_candidate
from flows.forms import settle_chain
from flows.plan import CompressionPlan
from tasks.adapters.optuna_study import Draw
from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import PlanError
from tasks.contracts.evaluation import Quality
from tasks.contracts.search import HalfScores, Trial, TrialFigures
from tasks.decisions.search import excess_of
from tasks.score import score
from tasks.techniques import Technique


@dataclass(frozen=True)
class PendingTrial:
    """A chain that was drawn, and submitted where it is valid."""

    draw: Draw
    chain: PendingCandidate | None
    halves: PrefectFuture[HalfScores] | None
    failure: str = ""

    def finish(self, metric: str, baseline: TrialFigures, plan: CompressionPlan) -> Trial:
        """Wait for the chain; one that cannot go on is a trial that failed.

        Raises:
            InfrastructureError: retries did not help; the next search goes on from here.
            StageFailedError: a defect.
        """
        drawn = Trial(number=self.draw.number, candidate=self.draw.candidate, values=self.draw.values)
        if self.chain is None or self.halves is None:
            return drawn.model_copy(update={"failure": self.failure})
        made = self.chain.finish()
        seconds = sum(stage.made.seconds for stage in made.stages)
        if made.failure is not None:
            get_run_logger().info("%s with %s: %s", self.draw.candidate, self.draw.values, made.failure)
            return drawn.model_copy(update={"failure": made.failure, "seconds": seconds})
        figures = figures_of(made.quality, self.halves.result())
        excess = excess_of(metric, figures, baseline, plan.constraints)
        return drawn.model_copy(update={"figures": figures, "excess": excess, "seconds": seconds})


def start_trials(
    plan: CompressionPlan, draws: Sequence[Draw], baseline: Baseline, data: DatasetRef
) -> list[PendingTrial]:
    """Submit the chains of a round, none before the forms of all are settled: a probe would time their stages too.

    Values that are valid each may make no valid chain together, which is a trial that failed.
    """
    chains: list[tuple[Technique, ...] | PlanError] = []
    for draw in draws:
        try:
            chain = plan.varied(draw.candidate, draw.values)
        except PlanError as error:
            chains.append(error)
        else:
            chains.append(settle_chain(chain, baseline.made.model, data, plan.seed_of_candidates))
    return [_started(plan, draw, chain, baseline, data) for draw, chain in zip(draws, chains, strict=True)]


def _started(
    plan: CompressionPlan, draw: Draw, chain: tuple[Technique, ...] | PlanError, baseline: Baseline, data: DatasetRef
) -> PendingTrial:
    if isinstance(chain, PlanError):
        return PendingTrial(draw, None, None, failure=f"{type(chain).__name__}: {chain}")
    name = Trial(number=draw.number, candidate=draw.candidate).name
    pending = start_candidate(name, chain, baseline, data, plan.seed_of_candidates, plan.early_stop)
    return PendingTrial(draw, pending, score.submit(cast(Any, pending.stages[-1].quality), data, plan.seed))


def figures_of(quality: Quality, scores: HalfScores) -> TrialFigures:
    """Put what a search weighs of a model into one value."""
    return TrialFigures(scores=scores, size_bytes=quality.size_bytes, flops=quality.flops)
