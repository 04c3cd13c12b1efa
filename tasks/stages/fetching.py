"""The work of getting data: find their version, load, validate, split, check for leaks, store."""

from pathlib import Path

import numpy as np

from tasks.adapters.dvc import ensure_data
from tasks.adapters.expectations import validate
from tasks.contracts.data import DatasetRef, SplitName, SplitRef
from tasks.contracts.errors import DataError
from tasks.contracts.value import sha256_hex
from tasks.datasets import Source, materialise_shipped
from tasks.datasets.assignment import read_assignment
from tasks.datasets.dividing import divide
from tasks.datasets.revision import joint_revision
from tasks.datasets.source import ShippedSource
from tasks.datasets.splits import check_composition, composition, pack_split
from tasks.datasets.tokenization import encode, special_tokens, vocabulary_size
from tasks.runtime.documents import record_document
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings
from tasks.runtime.stores import ArtifactStore, DocumentStore


def source_revision(source: Source, settings: Settings) -> str:
    """Return the version of the source's rows, as DVC names it; `data/` is restored first if it is missing.

    A file of the user's own, outside the tracked `data/`, is known by its MD5; several by that of their list.

    Raises:
        DataError: the file is missing, or `data/` is not what `data.dvc` says.
        ServiceUnavailableError: `data/` is missing, and the DVC remote that has it does not answer.
    """
    path = source.location(settings.project)
    if isinstance(source, ShippedSource):
        return ensure_data(settings, connect(settings).host_locks, materialise_shipped)
    files = (path, *source.other_files(settings.project), *_assigned(source, settings))
    if any(_is_tracked(file, settings) for file in files):
        ensure_data(settings, connect(settings).host_locks, materialise_shipped)
    return joint_revision(files)


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
    validate(table, source.name, source.expect, services.settings, services.host_locks)
    assigned = [read_assignment(file) for file in _assigned(source, services.settings)]
    parts = divide(table, source.split, seed, *assigned)
    compositions: dict[SplitName, dict[str, int]] = {
        name: composition(part.y, table) for name, part in parts.items() if name != "unlabelled"
    }
    check_composition(source.name, table.task, compositions)
    tokenizer = table.make_tokenizer(list(parts["train"].x)) if table.make_tokenizer else None
    inputs = {name: encode(list(part.x), tokenizer) if tokenizer else part.x for name, part in parts.items()}
    data = DatasetRef(
        name=source.name,
        task=table.task,
        revision=revision,
        input_shape=inputs["train"].shape[1:],
        input_dtype="int64" if tokenizer else "float32",
        tokenizer=services.artifacts.put(tokenizer) if tokenizer else None,
        vocab_size=vocabulary_size(tokenizer) if tokenizer else None,
        special_tokens=special_tokens(tokenizer) if tokenizer else None,
        class_names=table.class_names,
        splits={
            name: _store_split(services.artifacts, inputs[name], parts[name].y, compositions.get(name, {}))
            for name in parts
        },
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


def _store_split(artifacts: ArtifactStore, x: np.ndarray, y: np.ndarray, composed: dict[str, int]) -> SplitRef:
    stored = artifacts.put(pack_split(x, y))
    return SplitRef(digest=stored.digest, size_bytes=stored.size_bytes, num_rows=len(y), composition=composed)


def _require_revision(source: Source, revision: str, settings: Settings) -> None:
    found = source_revision(source, settings)
    if found != revision:
        raise DataError(
            f"data set {source.name} at {source.location(settings.project)} is of revision {found}, but the run asked "
            f"for {revision}: it changed in between. Run the plan again to use what is there now"
        )


def _assigned(source: Source, settings: Settings) -> tuple[Path, ...]:
    return () if source.assigned is None else (settings.project / Path(source.assigned).expanduser(),)


def _is_tracked(path: Path, settings: Settings) -> bool:
    """Tell whether the file lies in a `data/` that DVC versions."""
    return path.resolve().is_relative_to(settings.project / "data") and (settings.project / "data.dvc").exists()
