"""The work of evaluating a deployable model on corrupted rows."""

import io

import numpy as np

from tasks.contracts.data import DatasetRef, SplitName
from tasks.contracts.evaluation import Robustness
from tasks.contracts.model import ModelRef
from tasks.evaluation.corruptions import Reference, corrupt, suite
from tasks.evaluation.metrics import task_metrics
from tasks.evaluation.predictions import predict
from tasks.runtime.services import connect
from tasks.stages.splits import load_split


def evaluate_corrupted(model: ModelRef, data: DatasetRef, split: SplitName) -> Robustness:
    """Run an ONNX model on the rows of `split` under every corruption that suits them.

    What the corruptions need to know of the data they learn from the calibration split. An output that is not finite
    is no error here: that a model breaks under noise is what this is to find.

    Raises:
        ModelError: the model does not run, or does not fit the data set.
    """
    artifacts = connect().artifacts
    rows, blob = load_split(artifacts, data, split), artifacts.get(model.digest)
    reference = Reference(
        x=load_split(artifacts, data, "calibration").x,
        tokenizer=artifacts.get(data.tokenizer.digest) if data.tokenizer else None,
    )
    corruptions = suite(data.input_shape, data.input_dtype, is_text=data.tokenizer is not None)
    outputs = {
        name: predict(blob, corrupt(name, corruption, rows.x, reference), data.num_outputs, finite=False)
        for name, corruption in corruptions.items()
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **outputs)
    return Robustness(
        model=model.digest,
        split=split,
        metrics={
            name: task_metrics(data.task, answers, rows.y)
            for name, answers in outputs.items()
            if np.isfinite(answers).all()
        },
        predictions=artifacts.put(buffer.getvalue()),
    )
