"""Reads a split back from the store."""

import io

import numpy as np

from tasks.contracts.data import DatasetRef, SplitName
from tasks.runtime.services import ArtifactStore
from tasks.techniques.technique import Arrays


def load_split(artifacts: ArtifactStore, data: DatasetRef, split: SplitName) -> Arrays:
    """Return the rows of a split, the test split included: who may read that is for the caller to decide."""
    with np.load(io.BytesIO(artifacts.get(data.splits[split].digest)), allow_pickle=False) as arrays:
        return Arrays(x=arrays["x"], y=arrays["y"])
