"""The one way in which an ONNX model is opened and run, so that every figure comes from the same settings."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.contracts.errors import ModelError, OutOfMemoryError, StillhouseError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

logger = logging.getLogger(__name__)

_MET_TWICE = "Attempt to replace the existing tensor"
"""What onnxruntime 1.31 says when it would make the same int8 weights unsigned a second time."""
_ERRORS_ONLY = 3


def make_session(model: bytes, *, num_threads: int = 1, optimized_model: Path | None = None) -> "InferenceSession":
    """Open `model` for the CPU with all graph optimisations, without spinning threads and without printing.

    Spinning threads of two sessions in one process fight for the cores and make both several times
    slower; one thread per session and more processes is the faster way to use a machine.

    Args:
        model: An ONNX file.
        num_threads: Threads within one operator. Figures of different numbers are not comparable.
        optimized_model: Where to write the graph as onnxruntime will execute it.

    Raises:
        ModelError: onnxruntime cannot load the model; the message says why.
        OutOfMemoryError: there is not enough memory for it.
    """
    import onnxruntime

    for exact in (True, False):
        try:
            return onnxruntime.InferenceSession(
                model, _options(num_threads, optimized_model, exact=exact), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            if not (exact and _MET_TWICE in str(error)):
                raise _named(f"onnxruntime cannot load this ONNX model of {len(model)} bytes", error) from error
            logger.warning(
                "a layer with int8 weights is used twice, so that onnxruntime cannot guard its sums against overflow "
                "on this processor, which has no VNNI"
            )
    raise AssertionError("the loop returns or raises")


def _options(num_threads: int, optimized_model: Path | None, *, exact: bool) -> "SessionOptions":
    """Return the settings of a session; `exact` keeps sums of int8 products from overflowing without VNNI."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
    if optimized_model is not None:
        options.optimized_model_filepath = str(optimized_model)
    return options


def run_outputs(session: "InferenceSession", batch: np.ndarray) -> list[np.ndarray]:
    """Run a model with one input on `batch` [B, *input_shape] and return all its outputs.

    Raises:
        ModelError: onnxruntime rejects the rows (shape or type) or fails on them.
        OutOfMemoryError: the batch does not fit in memory.
    """
    try:
        outputs: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: batch})
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        raise _named(f"the ONNX model cannot run on rows {batch.dtype}{list(batch.shape[1:])}", error) from error
    return outputs


def run_rows(session: "InferenceSession", x: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Run a model with one input and return its first output for every row of `x` [N, *input_shape].

    Rows go through in batches of `batch_size`, so memory does not grow with N.

    Raises:
        ModelError, OutOfMemoryError: see `run_outputs`.
    """
    starts = range(0, max(len(x), 1), batch_size)
    return np.concatenate([run_outputs(session, x[start : start + batch_size])[0] for start in starts])


def _named(what: str, error: Exception) -> StillhouseError:
    """Tell running out of memory, which a smaller batch can heal, from a model that is wrong."""
    out_of_memory = isinstance(error, MemoryError) or "allocate memory" in str(error) or "bad_alloc" in str(error)
    return (OutOfMemoryError if out_of_memory else ModelError)(f"{what}: {error}")
