"""Publish a run: the HTML report, Prefect artifacts, and the copies in MLflow."""

from pathlib import Path

from tasks.adapters.local_store import write_atomically
from tasks.contracts.run import RunDossier
from tasks.reporting.artifacts import publish_artifacts
from tasks.reporting.page import render_page
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.recording import attach_report


def report_path(run_id: str) -> str:
    """Return where the HTML report of a run lies."""
    return str(connect().settings.reports_root / f"{run_id}.html")


@effect_task
def report(dossier: RunDossier) -> None:
    """Write the HTML report, show the run in Prefect's pages, and attach both to the MLflow run."""
    page = render_page(dossier)
    write_atomically(Path(dossier.record.report), page.encode())
    attach_report(connect(), dossier, page)
    publish_artifacts(dossier)
