"""Cross-validation: the baseline and every chain once more on other data splits, for the gate to compare."""

from __future__ import annotations

from collections.abc import Sequence

from flows.baselines import make_baseline
from flows.candidates import Baseline, Candidate, start_candidate
from flows.forms import settle_chain
from flows.outcome import primary_metric
from flows.plan import CompressionPlan
from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import PlanError
from tasks.contracts.evaluation import SplitOutcome
from tasks.evaluate import evaluate
from tasks.fetch import fetch


def draw_splits(plan: CompressionPlan, revision: str, data: DatasetRef) -> tuple[DatasetRef, ...]:
    """Split the same rows anew, as often as the plan asks, by seeds that follow the plan's own.

    Raises:
        PlanError: the source fixes its test rows, so that no other split of them can be drawn.
    """
    splits = tuple(fetch(plan.dataset, revision, seed) for seed in _seeds(plan))
    if any(split.splits["test"].digest == data.splits["test"].digest for split in splits):
        raise PlanError(
            f"gate.data_splits={plan.gate.data_splits} wants other test rows, but the data set {data.name} comes with "
            "test rows of its own; set it to 0, or give the source all rows in one file"
        )
    return splits


def cross_validate(
    plan: CompressionPlan, splits: Sequence[DatasetRef], candidates: Sequence[Candidate]
) -> dict[str, tuple[SplitOutcome, ...]]:
    """Make the baseline and the chains of `candidates` anew on each split, and evaluate both on its test rows.

    Nothing that is made here is ever registered. Every stage is cached as any other.
    """
    found: dict[str, list[SplitOutcome]] = {candidate.name: [] for candidate in candidates}
    for seed, data in zip(_seeds(plan), splits, strict=True):
        moved = plan.model_copy(update={"seed": seed, "candidate_seed": plan.seed_of_candidates + seed - plan.seed})
        baseline = make_baseline(moved, data)
        of_candidates = moved.seed_of_candidates
        chains = {
            one.name: settle_chain(plan.candidates[one.name], baseline.made.model, data, of_candidates)
            for one in candidates
        }
        pending = [start_candidate(name, chain, baseline, data, of_candidates, None) for name, chain in chains.items()]
        for candidate in [one.finish() for one in pending]:
            found[candidate.name].append(_outcome(seed, data, baseline, candidate))
    return {name: tuple(outcomes) for name, outcomes in found.items()}


def _outcome(seed: int, data: DatasetRef, baseline: Baseline, candidate: Candidate) -> SplitOutcome:
    metric = primary_metric(data)
    failed = candidate.failure is not None
    reached = None if failed else evaluate(candidate.deployed, baseline.deployed, data, "test").metrics[metric]
    return SplitOutcome(
        seed=seed,
        num_train=data.splits["train"].num_rows,
        num_test=data.splits["test"].num_rows,
        baseline=evaluate(baseline.deployed, baseline.deployed, data, "test").metrics[metric],
        candidate=reached,
        failure=candidate.failure or "",
    )


def _seeds(plan: CompressionPlan) -> range:
    return range(plan.seed + 1, plan.seed + 1 + plan.gate.data_splits)
