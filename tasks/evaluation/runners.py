"""A loaded model behind one call, whichever runtime runs it, and a whole request's work around that call.

A runtime is imported when the first model of its format is loaded, so that a process pays for one only.
"""

from typing import Literal, Protocol

import numpy as np

from tasks.evaluation.probabilities import softmax


class Runner(Protocol):
    """A model in memory."""

    def run(self, rows: np.ndarray) -> np.ndarray:
        """Return the outputs [B, K] for contiguous rows [B, *input_shape]."""
        ...


class OnnxRunner:
    """An ONNX model in onnxruntime, on one thread."""

    def __init__(self, model: bytes) -> None:
        from tasks.evaluation.runtime_session import make_session

        self._session = make_session(model)
        self._input = self._session.get_inputs()[0].name

    def run(self, rows: np.ndarray) -> np.ndarray:
        """See `Runner.run`."""
        outputs: np.ndarray = self._session.run(None, {self._input: rows})[0]
        return outputs


class TorchRunner:
    """A torch artifact run eagerly: the reference that speed-ups are told against."""

    def __init__(self, model: bytes) -> None:
        from tasks.models.architecture import Network

        self._module = Network.from_bytes(model).module.eval()

    def run(self, rows: np.ndarray) -> np.ndarray:
        """See `Runner.run`."""
        import torch

        with torch.inference_mode():
            outputs: np.ndarray = self._module(torch.from_numpy(rows)).numpy()
        return outputs


def make_runner(model: bytes, model_format: Literal["onnx", "torch"]) -> Runner:
    """Load a model for running.

    Raises:
        ModelError: the bytes are not a model of that format.
    """
    return OnnxRunner(model) if model_format == "onnx" else TorchRunner(model)


def answer(runner: Runner, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Do all that a request costs once its rows [B, *input_shape] are an array.

    The rows are copied into one contiguous block (they may be a view into something larger), the
    model runs, and the outputs become what a caller is told.

    Returns:
        Predicted classes [B] and probabilities [B, K]; for a single output, the values twice.
    """
    outputs = runner.run(np.array(rows, order="C"))
    if outputs.shape[1] == 1:
        return outputs[:, 0], outputs
    probabilities = softmax(outputs)
    return probabilities.argmax(axis=1), probabilities
