"""The work of scoring a model on the two halves of a split."""

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.data import DatasetRef, SplitName
from tasks.contracts.errors import DataError
from tasks.contracts.search import HalfScores
from tasks.decisions.search import halves
from tasks.evaluation.metrics import accuracy, rmse
from tasks.evaluation.predictions import unpack_outputs
from tasks.runtime.services import connect
from tasks.stages.splits import load_split


def score_halves(predictions: ArtifactRef, split: SplitName, data: DatasetRef, seed: int) -> HalfScores:
    """Return the primary metric of predictions on each half.

    Args:
        predictions: `Quality.predictions` on the split.
        split: which one.
        data: the data set.
        seed: of the halves; models are compared under one.

    Raises:
        DataError: the split has fewer than 2 rows.
    """
    artifacts = connect().artifacts
    y = load_split(artifacts, data, split).y
    outputs = unpack_outputs(artifacts.get(predictions.digest))
    measure = accuracy if data.task == "classification" else rmse
    try:
        tuned, held = halves(y, seed)
    except ValueError as error:
        raise DataError(f"{data.name}: {error}") from error
    return HalfScores(tuned=measure(outputs[tuned], y[tuned]), held=measure(outputs[held], y[held]))
