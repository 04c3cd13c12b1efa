"""Count a look at a test split, before it is taken."""

from collections.abc import Sequence

from tasks.contracts.data import DatasetRef
from tasks.contracts.value import Digest
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task
from tasks.stages.looking import count_look


@effect_task
def look(data: DatasetRef, models: Sequence[Digest], now: str) -> int:
    """Return which look at the test split this is, from 1."""
    return count_look(connect().documents, data, models, now)
