"""What is kept of a row's input and of a model's answer: the same for logged traffic and for a reference split."""

import functools
import hashlib
import math

import numpy as np

from tasks.contracts.data import Task

SKETCH_SIZE = 8


@functools.lru_cache(maxsize=16)
def sketch_projection(num_inputs: int) -> np.ndarray:
    """Return the random projection [num_inputs, 8] of the input sketch.

    Its entries are ±1/√num_inputs (Achlioptas 2003, "Database-friendly random projections"), the signs
    being the bits of SHAKE-256 over a fixed text: every replica, machine and version projects alike.
    """
    bits = hashlib.shake_256(b"stillhouse input sketch 1").digest(num_inputs * SKETCH_SIZE // 8)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8)).astype(np.float32) * 2 - 1
    return signs.reshape(num_inputs, SKETCH_SIZE) / np.float32(math.sqrt(num_inputs))


def sketch_inputs(inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Summarise rows [N, *input_shape] by mean [N], standard deviation [N] and projection [N, 8]."""
    flat = inputs.reshape(len(inputs), -1)
    return {
        "input_mean": flat.mean(axis=1, dtype=np.float64),
        "input_std": flat.std(axis=1, dtype=np.float64),
        "input_sketch": flat.astype(np.float32) @ sketch_projection(flat.shape[1]),
    }


def judge_outputs(outputs: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """Return prediction, confidence and margin [N] each; the latter two are NaN for regression.

    For classification `outputs` [N, K] are logits: confidence is the largest softmax probability,
    margin its distance to the second largest.
    """
    rows = np.asarray(outputs, dtype=np.float64).reshape(len(outputs), -1)
    if task == "regression":
        unknown = np.full(len(rows), np.nan)
        return {"prediction": rows[:, 0], "confidence": unknown, "margin": unknown}
    exponentials = np.exp(rows - rows.max(axis=1, keepdims=True))
    top = np.partition(exponentials / exponentials.sum(axis=1, keepdims=True), -2, axis=1)[:, -2:]
    return {
        "prediction": rows.argmax(axis=1).astype(np.float64),
        "confidence": top[:, 1],
        "margin": top[:, 1] - top[:, 0],
    }
