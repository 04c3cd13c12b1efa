"""Record a run and its stages in MLflow."""

from tasks.contracts.run import RunDossier
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.recording import record_run


@effect_task
def track(dossier: RunDossier) -> str:
    """Find or create the run's MLflow run and its stages' runs; return the parent's run id."""
    return record_run(connect(), dossier)
