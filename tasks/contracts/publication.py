"""A version of a data set that was made from traffic."""

from typing import Any

from tasks.contracts.data import SplitName
from tasks.contracts.value import Digest, Slug, Value


class PublishedData(Value):
    """The newest published version of a model's data set; earlier ones are earlier versions of its document."""

    model_name: Slug
    origin: Digest
    """Of the plan's own data set and seed: what the first published version was made from."""
    source: dict[str, Any]
    """The data set as a plan names it; its files lie in `data/`."""
    revision: str
    """Of these files."""
    base_revision: str
    """Of the version that rows were added to."""
    data_revision: str
    """Of the whole `data/`, as in `data.dvc`."""
    num_rows: int
    """All labelled rows."""
    num_new: dict[SplitName, int]
    """Rows that this version added, by split."""
    left_out: dict[str, int]
    """Rows of the batch that were left out, by the reason."""
    published_at: str
    """UTC, ISO 8601."""


def published_name(model_name: Slug) -> str:
    """Return the name of the document that holds a model's `PublishedData`."""
    return f"published/{model_name}"
