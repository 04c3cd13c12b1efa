"""Show a search: its trials in MLflow and in Prefect's pages, and its record among the documents."""

from tasks.contracts.search import SearchRecord
from tasks.reporting.search_artifacts import publish_search
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.recording_search import record_search


@effect_task
def tabulate(record: SearchRecord, found: str | None) -> None:
    """Keep the record, log a run for every trial, and show the trials beside the plan (YAML) that was found."""
    record_search(connect(), record, found)
    publish_search(record, found)
