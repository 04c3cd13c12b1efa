"""The work of getting data: find their version, load, validate, split, check for leaks, store."""

from pathlib import Path

import numpy as np

from tasks.adapters.dvc import ensure_data
from tasks.adapters.expectations import validate
from tasks.contracts.data import DatasetRef, SplitRef
from tasks.contracts.errors import DataError
from tasks.contracts.value import sha256_hex
from tasks.datasets import Source, materialise_shipped
from tasks.datasets.revision import file_revision
from tasks.datasets.source import RawTable, ShippedSource
from tasks.datasets.splits import check_composition, check_leakage, composition, pack_split, split_rows
from tasks.runtime.documents import record_document
from tasks.runtime.services import ArtifactStore, DocumentStore, connect
from tasks.runtime.settings import Settings


def source_revision(source: Source, settings: Settings) -> str:
    """Return the version of the source's rows, as DVC names it; `data/` is restored first if it is missing.

    A file of the user's own, outside the tracked `data/`, is known by its MD5.

    Raises:
        DataError: the file is missing, or `data/` is not what `data.dvc` says.
        ServiceUnavailableError: `data/` is missing, and the DVC remote that has it does not answer.
    """
    path = source.location(settings.project)
    if isinstance(source, ShippedSource):
        return ensure_data(settings, connect(settings).locks, materialise_shipped)
    if _is_tracked(path, settings):
        ensure_data(settings, connect(settings).locks, materialise_shipped)
    return file_revision(path)


def prepare_dataset(source: Source, revision: str, seed: int) -> DatasetRef:
    """Load version `revision`, hold it against its expectations, split it, and store the splits.

    Raises:
        DataError: the rows are of another version, malformed, break an expectation, leak between splits,
            or are too few for a split or a class.
        InfrastructureError: the store or the Data Docs cannot be written.
    """
    services = connect()
    _require_revision(source, revision, services.settings)
    table = source.load(services.settings.project)
    _require_revision(source, revision, services.settings)  # the file may have been replaced while it was read
    validate(table, source.name, source.expect, services.settings, services.locks)
    rows = split_rows(table, source.split, seed)
    check_leakage({name: table.x[chosen] for name, chosen in rows.items()})
    compositions = {name: composition(table.y[chosen], table) for name, chosen in rows.items()}
    check_composition(source.name, table.task, compositions)
    data = DatasetRef(
        name=source.name,
        task=table.task,
        revision=revision,
        input_shape=table.input_shape,
        class_names=table.class_names,
        splits={name: _store_split(services.artifacts, table, rows[name], compositions[name]) for name in rows},
    )
    record_dataset(data, services.documents)
    record_dataset(data, services.documents, request_name(source, revision, seed))
    return data


def request_name(source: Source, revision: str, seed: int) -> str:
    """Name the document of exactly this preparation, where `datasets/<name>` is the newest of that name."""
    request = source.canonical_json() + f"\n{revision}\n{seed}".encode()
    return f"datasets/{source.name}/{sha256_hex(request)[:32]}"


def record_dataset(data: DatasetRef, documents: DocumentStore, name: str | None = None) -> None:
    """Make `data` the newest version of the document `name` (default `datasets/<its name>`)."""
    record_document(documents, name or f"datasets/{data.name}", data.canonical_json())


def _store_split(artifacts: ArtifactStore, table: RawTable, rows: np.ndarray, composed: dict[str, int]) -> SplitRef:
    stored = artifacts.put(pack_split(table.x[rows], table.y[rows]))
    return SplitRef(digest=stored.digest, size_bytes=stored.size_bytes, num_rows=len(rows), composition=composed)


def _require_revision(source: Source, revision: str, settings: Settings) -> None:
    found = source_revision(source, settings)
    if found != revision:
        raise DataError(
            f"data set {source.name} at {source.location(settings.project)} is of revision {found}, but the run asked "
            f"for {revision}: it changed in between. Run the plan again to use what is there now"
        )


def _is_tracked(path: Path, settings: Settings) -> bool:
    """Tell whether the file lies in a `data/` that DVC versions."""
    return path.resolve().is_relative_to(settings.project / "data") and (settings.project / "data.dvc").exists()
