"""The outputs of a deployable model on a whole split, and their form as an artifact."""

import io

import numpy as np

from tasks.contracts.errors import ModelError
from tasks.evaluation.runtime_session import make_session, run_rows


def predict(model: bytes, x: np.ndarray, num_outputs: int, *, batch_size: int = 256, finite: bool = True) -> np.ndarray:
    """Run an ONNX model over the rows `x` [N, *input_shape].

    Args:
        model: an ONNX model.
        x: rows in the model's own type.
        num_outputs: width that its outputs must have.
        batch_size: rows at once.
        finite: whether outputs that are not finite are an error.

    Returns:
        Outputs float32 [N, num_outputs], in the order of the rows.

    Raises:
        ModelError: the model does not load or run, or its outputs have another shape or, if they must be, are not
            finite.
    """
    outputs = run_rows(make_session(model), x, batch_size=batch_size).astype(np.float32, copy=False)
    if outputs.shape != (len(x), num_outputs):
        raise ModelError(
            f"the model gives outputs of shape {outputs.shape} for {len(x)} rows; the data set needs "
            f"({len(x)}, {num_outputs}). Use a model that was made for this data set."
        )
    if finite and not (finite_N := np.isfinite(outputs).all(axis=1)).all():
        raise ModelError(f"the model gives NaN or infinite outputs for {int((~finite_N).sum())} of {len(x)} rows")
    return outputs


def pack_outputs(outputs: np.ndarray) -> bytes:
    """Return an npz with the one array `outputs`; equal outputs give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, outputs=outputs)
    return buffer.getvalue()


def unpack_outputs(data: bytes) -> np.ndarray:
    """Return the array of `pack_outputs`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        outputs: np.ndarray = arrays["outputs"]
    return outputs
