"""Dossiers of past runs: where they are kept, and how one is found."""

from pydantic import ValidationError

from tasks.contracts.errors import InfrastructureError, UserError
from tasks.contracts.run import RunDossier
from tasks.runtime.documents import record_document
from tasks.runtime.services import connect
from tasks.runtime.stores import Document

_PREFIX = "runs/"


def save_dossier(dossier: RunDossier) -> None:
    """Keep a dossier; an unchanged one is not written again, a changed one becomes its next version."""
    record_document(connect().documents, f"{_PREFIX}{dossier.record.run_id}", dossier.canonical_json())


def list_dossiers() -> list[RunDossier]:
    """Return the newest version of every run's dossier, newest run first."""
    documents = connect().documents
    found = {name: documents.latest(name) for name in documents.names(_PREFIX)}
    dossiers = [_parsed(name, document) for name, document in found.items() if document]
    return sorted(dossiers, key=lambda dossier: dossier.started_at, reverse=True)


def find_dossier(run: str) -> RunDossier:
    """Return the dossier of a run by its id, the start of its id, or `latest`.

    Raises:
        UserError: no run, or more than one, answers to `run`.
    """
    dossiers = list_dossiers()
    if not dossiers:
        raise UserError("there is no run yet; start one with `stillhouse run plans/digits.yaml`")
    if run == "latest":
        return dossiers[0]
    matching = [dossier for dossier in dossiers if dossier.record.run_id.startswith(run)]
    if len(matching) != 1:
        raise UserError(f"{len(matching)} runs answer to {run!r}; `stillhouse runs ls` lists the ids")
    return matching[0]


def _parsed(name: str, document: Document) -> RunDossier:
    try:
        return RunDossier.model_validate_json(document.data)
    except ValidationError as error:
        raise InfrastructureError(
            f"version {document.version} of document {name} in {connect().settings.store_address} is not the record of "
            f"a run ({error.error_count()} faults): it is damaged, or of another version of Stillhouse; remove it"
        ) from error
