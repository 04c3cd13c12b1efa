"""What every part of the report reads from a dossier: the metric that counts, who finished, who was chosen."""

from tasks.contracts.evaluation import METRIC_DIRECTIONS, Evaluation
from tasks.contracts.run import CandidateSummary, RunDossier
from tasks.contracts.verdict import Check, Verdict


def primary_metric(dossier: RunDossier) -> str:
    """Return the metric that the gate and the Pareto front look at first."""
    return "accuracy" if dossier.dataset.task == "classification" else "rmse"


def on_validation(dossier: RunDossier) -> RunDossier:
    """Return the dossier with every evaluation on the validation split, where stages compare with each other.

    As recorded, the baseline and the last stage of a judged candidate are evaluated on the test split.
    """
    return dossier.model_copy(update={"record": dossier.on_validation()})


def is_better(metric_name: str, change: float) -> bool:
    """Tell whether a change of a metric is no loss, by the direction that the metric declares."""
    return change >= 0.0 if METRIC_DIRECTIONS.get(metric_name, "higher") == "higher" else change <= 0.0


def finished_candidates(dossier: RunDossier) -> list[CandidateSummary]:
    """Return the candidates whose chain ran to its end, in the order of the plan."""
    return [
        candidate
        for candidate in dossier.record.candidates
        if candidate.stages and dossier.candidates[candidate.name].failure is None
    ]


def chosen_candidate(dossier: RunDossier) -> CandidateSummary | None:
    """Return the candidate that was chosen; None if none passed."""
    return next((one for one in dossier.record.candidates if one.name == dossier.record.chosen), None)


def deployed_evaluation(candidate: CandidateSummary) -> Evaluation:
    """Return the evaluation of a finished candidate's deployable model."""
    return candidate.stages[-1].evaluation


def latency_p50_ms(evaluation: Evaluation) -> float:
    """Return the median latency at batch 1, milliseconds."""
    return evaluation.latency_ms["1"].p50


def gate_checks(dossier: RunDossier, name: str) -> tuple[Check, ...]:
    """Return every check of a candidate; none if it was not judged."""
    stored = dossier.candidates[name].gate
    return stored.report.checks if stored else ()


def quality_check(dossier: RunDossier, name: str) -> Check | None:
    """Return the check of a candidate that bounds its loss of quality."""
    primary = primary_metric(dossier)
    return next((check for check in gate_checks(dossier, name) if check.name == primary), None)


def refusals(dossier: RunDossier, name: str) -> list[Check]:
    """Return the blocking checks that a candidate did not pass."""
    return [check for check in gate_checks(dossier, name) if check.blocking and check.verdict is not Verdict.PASS]
