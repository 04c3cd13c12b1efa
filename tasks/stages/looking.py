"""The work of counting how often a test split was looked at."""

import json
from collections.abc import Sequence

from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import DocumentConflictError
from tasks.contracts.value import Digest
from tasks.decisions.reuse import Looks
from tasks.runtime.stores import DocumentStore


def count_look(documents: DocumentStore, data: DatasetRef, models: Sequence[Digest], now: str) -> int:
    """Return which look at the test split of `data` this is, from 1, and record it if it is a new one.

    Looks are counted by the split's rows, whatever plan or data set they came by. Counting again after a crash, or
    in a run that judges the same models, gives the same number.

    Args:
        documents: where looks are kept.
        data: the data set.
        models: the candidates that are about to be judged.
        now: UTC, ISO 8601.
    """
    name = f"test-looks/{data.splits['test'].digest}"
    while True:
        latest = documents.latest(name)
        looks = Looks.model_validate(json.loads(latest.data)) if latest else Looks()
        known = looks.number_of(models)
        if known is not None:
            return known
        looks = looks.with_look(models, now)
        try:
            documents.append(name, looks.canonical_json(), latest.version if latest else 0)
        except DocumentConflictError:
            continue  # another run looked between the read and the write
        return len(looks.looks)
