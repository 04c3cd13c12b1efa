"""The work of making a data version from traffic: the plan's rows, and the labelled rows that clients sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from tasks.adapters import dvc
from tasks.adapters.dvc_publish import publish_folder
from tasks.adapters.expectations import validate
from tasks.adapters.route_store import RouteStore
from tasks.adapters.sampled_inputs import read_labelled_inputs
from tasks.contracts.data import SplitName
from tasks.contracts.errors import DataError, ModelError, TooFewRowsError
from tasks.contracts.publication import PublishedData, published_name
from tasks.contracts.registration import CHAMPION_ALIAS
from tasks.contracts.value import Slug, sha256_hex
from tasks.datasets import Source, materialise_shipped
from tasks.datasets.assignment import assignment_of, read_assignment
from tasks.datasets.dividing import divide
from tasks.datasets.extended_form import ExtendedForm, extended_form
from tasks.datasets.extending import Extension, extend
from tasks.datasets.source import RawTable
from tasks.datasets.splits import check_composition, composition, split_rows
from tasks.datasets.text_rows import readable_texts
from tasks.runtime.documents import record_document
from tasks.runtime.services import Services, connect
from tasks.stages.fetching import source_revision

_SOURCE: TypeAdapter[Source] = TypeAdapter(Source)


@dataclass(frozen=True)
class Batch:
    """Labelled rows that may be added: `x` [N, *input_shape] as the model took them, `y` float64 [N]."""

    x: np.ndarray
    y: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows that were left out before, by the reason."""


def published_source(published: PublishedData) -> Source:
    """Return the data set of a published version, as a plan names it."""
    return _SOURCE.validate_python(published.source)


def latest_published(services: Services, model_name: Slug, source: Source, seed: int) -> PublishedData | None:
    """Return the newest version that was made from the plan's data set `source`, or is it; None if there is none."""
    found = services.documents.latest(published_name(model_name))
    published = None if found is None else PublishedData.model_validate_json(found.data)
    if published is None:
        return None
    is_it = published.source == source.model_dump(mode="json")
    return published if is_it or published.origin == _origin(source, seed) else None


def batch_from_traffic(services: Services, model_name: Slug) -> Batch:
    """Read the sampled inputs that got a label.

    Raises:
        ModelError: the model has no route, so that nothing says what its rows are.
    """
    route = RouteStore(services.documents, services.acknowledgements).current(model_name)
    if route is None:
        raise ModelError(
            f"no gateway ever served {model_name}: it has no route; `stillhouse model ls` lists the models"
        )
    found = read_labelled_inputs(services.traffic.folder(model_name), model_name, route.route.signature)
    return Batch(found.x, found.y, {"no label": found.unlabelled, "id used twice": found.ambiguous})


def publish(
    services: Services, model_name: Slug, source: Source, seed: int, batch: Batch, *, min_rows: int, now: str
) -> PublishedData:
    """Add the new rows of `batch` to the newest version of `source`, and make that a version of `data/`.

    The whole is held against the expectations and the leakage check of the base; what breaks them changes nothing.

    Args:
        services: What is outside.
        model_name: Whose data set.
        source: The data set of the model's plan.
        seed: The plan's, by which rows are dealt to splits.
        batch: Labelled rows, oldest first.
        min_rows: Fewest new rows that are worth a version.
        now: UTC, ISO 8601.

    Raises:
        TooFewRowsError: there are fewer.
        DataError: labels are out of range, an expectation is broken, or a split would lack a class.
        ServiceUnavailableError: the version is there, but the remote did not take it: `stillhouse data push` again.
    """
    settings = services.settings
    dvc.ensure_data(settings, services.host_locks, materialise_shipped)
    before = latest_published(services, model_name, source, seed)
    base_source = source if before is None else published_source(before)
    base_revision = source_revision(base_source, settings)
    base = base_source.load(settings.project)
    extension, form, left_out = _extended(base_source, base, seed, batch, settings.project)
    num_new = sum(extension.num_new.values())
    if num_new < min_rows:
        raise TooFewRowsError(
            f"{num_new} of {len(batch.y)} labelled rows are new to data set {source.name} of {model_name}, and a "
            f"version needs {min_rows} ({_told(left_out)}); wait for more feedback, sample more inputs "
            "(STILLHOUSE_SAMPLE_INPUTS), or lower retraining.min_new_rows"
        )
    folder = f"published/{model_name}"
    version = publish_folder(
        settings,
        services.host_locks,
        folder,
        form.files,
        lambda staged: _require_good(services, form, staged, base, seed),
    )
    published_as = form.source_in(f"data/{folder}")
    published = PublishedData(
        model_name=model_name,
        origin=_origin(source, seed) if before is None else before.origin,
        source=published_as.model_dump(mode="json"),
        revision=source_revision(published_as, settings),
        base_revision=base_revision,
        data_revision=version.revision,
        num_rows=len(base.y) + num_new,
        num_new=extension.num_new,
        left_out=left_out,
        published_at=now,
    )
    record_document(services.documents, published_name(model_name), published.canonical_json())
    dvc.push(settings, services.host_locks)
    return published


def publish_traffic(model_name: Slug, source: Source, seed: int, min_rows: int, now: str) -> PublishedData:
    """Do as `find_or_publish` does, with the services of this process."""
    return find_or_publish(connect(), model_name, source, seed, min_rows, now)


def find_or_publish(
    services: Services, model_name: Slug, source: Source, seed: int, min_rows: int, now: str
) -> PublishedData:
    """Publish what traffic brought; if that is too little, find a version that the champion was not trained on.

    Raises:
        TooFewRowsError: there is no such version either.
        DataError: see `publish`.
    """
    try:
        return publish(
            services, model_name, source, seed, batch_from_traffic(services, model_name), min_rows=min_rows, now=now
        )
    except TooFewRowsError:
        found = latest_published(services, model_name, source, seed)
        if found is None or _champion_tags(services, model_name).get("stillhouse.data_revision") == found.revision:
            raise
        dvc.push(services.settings, services.host_locks)  # a process may have died before it did
        return found


def _extended(
    source: Source, base: RawTable, seed: int, batch: Batch, project: Path
) -> tuple[Extension, ExtendedForm, dict[str, int]]:
    if source.assigned is not None:
        assignment = read_assignment(project / source.assigned)
    else:
        assignment = assignment_of(base.x, split_rows(base, source.split, seed))
    x, y, tokenizer, unreadable = batch.x, batch.y, None, 0
    if base.make_tokenizer is not None:
        parts = divide(base, source.split, seed, assignment)
        tokenizer = base.make_tokenizer(list(parts["train"].x))
        x, good = readable_texts(batch.x, tokenizer)
        y, unreadable = batch.y[good], int((~good).sum())
    elif len(x) and x.shape[1:] != base.x.shape[1:]:
        raise DataError(f"rows of shape {x.shape[1:]} do not fit data set {source.name}, whose are {base.x.shape[1:]}")
    extension = extend(base, assignment, x if base.is_text else x.astype(np.float32), y, source.split, seed)
    left_out = batch.left_out | {
        "repeats a row": extension.repeated,
        "is a row of test or validation": extension.held_out,
        "no text gives these tokens": unreadable,
    }
    return extension, extended_form(source, base, extension, tokenizer), left_out


def _require_good(services: Services, form: ExtendedForm, staged: Path, base: RawTable, seed: int) -> None:
    """Hold the staged version against everything that a run would hold it against."""
    source = form.source_in(str(staged))
    table = source.load(services.settings.project)
    if table.class_names != base.class_names:
        raise DataError(
            f"data set {source.name} would have the classes {table.class_names} instead of {base.class_names}"
        )
    validate(table, source.name, source.expect, services.settings, services.host_locks)
    assert source.assigned is not None, "a published version says which split each row belongs to"
    parts = divide(table, source.split, seed, read_assignment(Path(source.assigned)))
    compositions: dict[SplitName, dict[str, int]] = {
        name: composition(part.y, table) for name, part in parts.items() if name != "unlabelled"
    }
    check_composition(source.name, table.task, compositions)


def _champion_tags(services: Services, model_name: Slug) -> Mapping[str, str]:
    champion = services.registry.version_of(model_name, CHAMPION_ALIAS)
    return {} if champion is None else champion.tags


def _origin(source: Source, seed: int) -> str:
    return sha256_hex(source.canonical_json() + f"\n{seed}".encode())


def _told(left_out: dict[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in left_out.items() if count) or "none was left out"
