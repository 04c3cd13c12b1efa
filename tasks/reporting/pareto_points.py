"""The models of a run as points of the Pareto picture."""

from tasks.contracts.run import CandidateSummary, RunDossier
from tasks.reporting.dossier_reading import (
    deployed_evaluation,
    finished_candidates,
    latency_p50_ms,
    on_validation,
    primary_metric,
)
from tasks.reporting.pareto_picture import Kind, ParetoPoint


def pareto_points(dossier: RunDossier) -> tuple[ParetoPoint, ...]:
    """Return the baseline and every finished candidate, by their figures on the validation split."""
    dossier = on_validation(dossier)
    metric, base = primary_metric(dossier), dossier.record.baseline.evaluation
    baseline = ParetoPoint("baseline", "baseline", base.metrics[metric], base.size_bytes, latency_p50_ms(base))
    return baseline, *(_point(one, metric, dossier.record.chosen) for one in finished_candidates(dossier))


def _point(candidate: CandidateSummary, metric: str, chosen: str | None) -> ParetoPoint:
    evaluation = deployed_evaluation(candidate)
    kind: Kind = "chosen" if candidate.name == chosen else "front" if candidate.pareto else "dominated"
    return ParetoPoint(
        name=candidate.name,
        kind=kind,
        quality=evaluation.metrics[metric],
        size_bytes=evaluation.size_bytes,
        latency_ms=latency_p50_ms(evaluation),
        on_front=candidate.pareto,
        verdict=candidate.gate.verdict,
    )
