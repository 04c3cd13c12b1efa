"""Reads a split back from the store."""

import io

import numpy as np

from tasks.contracts.data import DatasetRef, SplitName
from tasks.contracts.errors import DataError
from tasks.runtime.stores import ArtifactStore
from tasks.techniques.technique import Arrays


def load_split(artifacts: ArtifactStore, data: DatasetRef, split: SplitName) -> Arrays:
    """Return the rows of a split, the test split included: who may read that is for the caller to decide.

    Raises:
        DataError: the data set has no such split.
    """
    if split not in data.splits:
        raise DataError(
            f"data set {data.name} has no split {split!r}, only {', '.join(sorted(data.splits))}; give the plan's "
            "dataset a share of rows for it (split.unlabelled) or a file of them (unlabelled), or use another split"
        )
    with np.load(io.BytesIO(artifacts.get(data.splits[split].digest)), allow_pickle=False) as arrays:
        return Arrays(x=arrays["x"], y=arrays["y"])
