"""The work of evaluating a deployable model on one split."""

import numpy as np

from tasks.contracts.artifact import ArtifactRef
from tasks.contracts.data import DatasetRef, SplitName
from tasks.contracts.errors import ModelError
from tasks.contracts.evaluation import Quality
from tasks.contracts.model import ModelRef
from tasks.evaluation.calibration import expected_calibration_error
from tasks.evaluation.metrics import flip_rate, per_class_recall, task_metrics
from tasks.evaluation.predictions import pack_outputs, predict, unpack_outputs
from tasks.runtime.services import connect
from tasks.runtime.stores import ArtifactStore
from tasks.stages.splits import load_split


def evaluate_model(
    model: ModelRef,
    baseline: ModelRef,
    data: DatasetRef,
    split: SplitName,
    baseline_predictions: ArtifactRef | None = None,
) -> Quality:
    """Measure everything about `model` that does not depend on the machine, on every row of `split`.

    Args:
        model: What is evaluated, an ONNX model.
        baseline: The model that flips are counted against, an ONNX model.
        data: The data set.
        split: Which of its splits.
        baseline_predictions: `Quality.predictions` of the baseline on the same split, if it is there
            already; else the baseline is run.

    Raises:
        ModelError: a model is not ONNX, does not run, or does not fit the data set.
    """
    from tasks.evaluation.onnx_graph import read_graph_facts

    for role, ref in (("model", model), ("baseline", baseline)):
        if ref.format != "onnx":
            raise ModelError(
                f"{role} {ref.digest[:12]} has the format {ref.format!r}; export it to ONNX to evaluate it"
            )
    artifacts = connect().artifacts
    rows = load_split(artifacts, data, split)
    blob = artifacts.get(model.digest)
    outputs = predict(blob, rows.x, data.num_outputs)
    facts = read_graph_facts(blob, data.input_shape)
    classifies = data.task == "classification"
    flips: float | None = None
    if classifies:
        flips = flip_rate(
            outputs, _baseline_outputs(artifacts, model, baseline, baseline_predictions, rows.x, data, outputs)
        )
    return Quality(
        model=model.digest,
        split=split,
        num_rows=len(rows.y),
        metrics=task_metrics(data.task, outputs, rows.y),
        per_class=per_class_recall(outputs, rows.y, data.class_names) if classifies else {},
        num_parameters=facts.num_parameters,
        flops=facts.flops,
        size_bytes=facts.size_bytes,
        size_zip_bytes=facts.size_zip_bytes,
        int8_coverage=facts.int8.share,
        zero_share=facts.zero_share,
        ece=expected_calibration_error(outputs, rows.y) if classifies else None,
        flip_rate=flips,
        predictions=artifacts.put(pack_outputs(outputs)),
    )


def _baseline_outputs(
    artifacts: ArtifactStore,
    model: ModelRef,
    baseline: ModelRef,
    predictions: ArtifactRef | None,
    x: np.ndarray,
    data: DatasetRef,
    own_outputs: np.ndarray,
) -> np.ndarray:
    """Get the baseline's outputs the cheapest way that there is."""
    if baseline.digest == model.digest:
        return own_outputs
    if predictions is not None:
        return unpack_outputs(artifacts.get(predictions.digest))
    return predict(artifacts.get(baseline.digest), x, data.num_outputs)
