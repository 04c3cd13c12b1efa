"""The work of recording a search: its document, and an MLflow run for every trial."""

from tasks.contracts.registration import RUN_TAG
from tasks.contracts.search import SearchRecord, Trial, TrialFigures
from tasks.runtime.documents import record_document
from tasks.runtime.services import Services


def record_search(services: Services, record: SearchRecord, found: str | None) -> str:
    """Record a search and its trials, and return the MLflow run of the search; a repetition finds what is there.

    Args:
        services: What is outside.
        record: What was tried and chosen.
        found: The plan with the finalists as YAML, attached as `plan.yaml`.
    """
    record_document(services.documents, f"searches/{record.run_id}", record.canonical_json())
    experiment = f"stillhouse-{record.plan.name}-search"
    parent = services.tracker.parent_run(experiment, record.run_id, record.plan.name, {"plan": record.plan.digest})
    for trial in record.trials:
        _record_trial(services, experiment, parent, record, trial)
    metrics = {f"baseline.{name}": value for name, value in figures(record, record.baseline).items()}
    within = sum(trial.is_within_limits for trial in record.trials)
    metrics |= {"trials": float(len(record.trials)), "trials_within_limits": float(within)}
    files = {"search.json": record.canonical_json()}
    if found is not None:
        files["plan.yaml"] = found.encode()
    names = ", ".join(trial.name for trial in record.chosen) or "none"
    services.tracker.finish_parent(parent, metrics, {"stillhouse.finalists": names}, files, status="FINISHED")
    return parent


def figures(record: SearchRecord, of: TrialFigures) -> dict[str, float]:
    """Return a model's figures by the names that MLflow shows."""
    return {
        f"tuned.{record.metric}": of.scores.tuned,
        f"held.{record.metric}": of.scores.held,
        "size_bytes": float(of.size_bytes),
        "flops": float(of.flops),
    }


def _record_trial(services: Services, experiment: str, parent: str, record: SearchRecord, trial: Trial) -> None:
    metrics = {"seconds": trial.seconds}
    if trial.figures is not None and trial.excess is not None:
        metrics |= figures(record, trial.figures)
        metrics |= {f"excess.{name}": value for name, value in trial.excess.model_dump().items()}
    tags = {RUN_TAG: record.run_id, "stillhouse.finalist": str(trial.number in record.finalists).lower()}
    if trial.failure:
        tags["stillhouse.failure"] = trial.failure
    services.tracker.stage_run(
        experiment,
        parent,
        f"search/{record.run_id}/{trial.number}",
        trial.name,
        params={"candidate": trial.candidate, **{place: str(value) for place, value in trial.values.items()}},
        metrics=metrics,
        history=(),
        tags=tags,
    )
