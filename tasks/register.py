"""Register the chosen candidate as challenger."""

from tasks.contracts.run import RegisteredSummary, RunDossier
from tasks.reporting.page import render_page
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.recording import register_challenger


@effect_task
def register(dossier: RunDossier, parent_run_id: str) -> RegisteredSummary:
    """Register the model with lineage, gate report and HTML report, once; point `challenger` to it."""
    return register_challenger(connect(), dossier, parent_run_id, render_page(dossier))
