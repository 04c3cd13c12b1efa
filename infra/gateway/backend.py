"""One loaded model: an onnxruntime session that has proved itself before it takes traffic."""

import logging
import statistics
import threading
import time
from typing import Any

import numpy as np
import onnxruntime as ort

from infra.gateway.errors import InferenceError
from infra.gateway.finite import all_finite
from infra.gateway.protocol import DATATYPES, TensorSpec
from infra.gateway.watchdog import Watchdog
from tasks.contracts.errors import ModelError
from tasks.contracts.route import ModelSignature
from tasks.contracts.value import Digest

_WARM_UP_RUNS = 5
_ORT_TYPES = {f"tensor({'float' if name == 'float32' else 'double' if name == 'float64' else name})": name
              for name in DATATYPES}  # fmt: skip
_SMOOTHING = 0.1
_MET_TWICE = "Attempt to replace the existing tensor"
"""What onnxruntime 1.31 says when it would make the same int8 weights unsigned a second time."""

logger = logging.getLogger(__name__)


class Statistics:
    """What a model has run, as `GET /v2/models/{model}/stats` tells it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = 0
        self._runs = 0
        self._requests = {True: 0, False: 0}
        self._ns = {True: 0, False: 0}
        self._last_ms = 0

    def count(self, num_rows: int, elapsed_ms: float, num_requests: int, *, succeeded: bool) -> None:
        """Count one run, which several requests may have shared."""
        with self._lock:
            self._requests[succeeded] += num_requests
            self._ns[succeeded] += round(elapsed_ms * 1e6)
            if succeeded:
                self._runs += 1
                self._rows += num_rows
            self._last_ms = time.time_ns() // 1_000_000

    def describe(self) -> dict[str, Any]:
        """Return the fields of the protocol's statistics extension; what is not measured apart is left out."""
        with self._lock:
            return {
                "last_inference": self._last_ms,
                "inference_count": self._rows,
                "execution_count": self._runs,
                "inference_stats": {
                    "success": {"count": self._requests[True], "ns": self._ns[True]},
                    "fail": {"count": self._requests[False], "ns": self._ns[False]},
                },
            }


class Backend:
    """A model that answers; safe to run from several threads."""

    def __init__(self, digest: Digest, model: bytes, signature: ModelSignature, watchdog: Watchdog) -> None:
        """Load `model` and run it on zeros.

        Raises:
            ModelError: the bytes are no model, or not one of this signature.
        """
        self.digest = digest
        self._signature = signature
        self._watchdog = watchdog
        try:
            self._session = _open(model)
        except Exception as error:
            raise ModelError(f"model {digest[:12]} cannot be loaded by onnxruntime: {_first_line(error)}") from error
        self.input = self._checked_input()
        self.outputs = tuple(self._output_spec(node) for node in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        self._ms_per_row = self._warm_up()
        self.statistics = Statistics()
        self.batch_rows = 1
        """Rows of several requests that may share a run; 1 where each has its own."""

    def expected_ms(self, num_rows: int) -> float:
        """Return what a run is expected to take, by a moving average over the latest ones."""
        return self._ms_per_row * num_rows

    def try_run(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Run the model without a limit, checks or statistics, to learn about it before it takes traffic."""
        outputs: list[np.ndarray] = self._session.run(self._output_names, {self.input.name: inputs})
        return outputs

    def run(self, inputs: np.ndarray, num_requests: int = 1) -> list[np.ndarray]:
        """Run the model on `inputs` [N, *input_shape]; the first output is [N, K], finite.

        A failure that several requests share is not counted as theirs: each is run again by itself.

        Raises:
            InferenceError: it failed (`run_failed`), took too long (`timeout`), or gave values that are
                not finite (`not_finite`) or not one row for each input row (`wrong_shape`).
        """
        options = self._watchdog.begin()
        started = time.perf_counter()
        succeeded = False
        try:
            outputs: list[np.ndarray] = self._session.run(self._output_names, {self.input.name: inputs}, options)
            if len(outputs[0]) != len(inputs):
                raise InferenceError("wrong_shape")
            if not all_finite(outputs[0]):
                raise InferenceError("not_finite")
            succeeded = True
        except InferenceError:
            raise
        except Exception as error:  # onnxruntime's errors share no base but Exception
            logger.debug("model %s failed: %s", self.digest[:12], _first_line(error))
            raise InferenceError("timeout" if options.terminate else "run_failed") from error
        finally:
            elapsed_ms = (time.perf_counter() - started) * 1e3
            self._ms_per_row += _SMOOTHING * (elapsed_ms / len(inputs) - self._ms_per_row)
            self._watchdog.end(options)
            counted = num_requests if succeeded or num_requests == 1 else 0
            self.statistics.count(len(inputs), elapsed_ms, counted, succeeded=succeeded)
        return outputs

    def _checked_input(self) -> TensorSpec:
        nodes = self._session.get_inputs()
        if len(nodes) != 1:
            raise ModelError(f"model {self.digest[:12]} takes {len(nodes)} inputs; export one with a single input")
        node, expected = nodes[0], self._signature
        dtype = _ORT_TYPES.get(node.type)
        if dtype != expected.input_dtype:
            raise ModelError(f"model {self.digest[:12]} takes {node.type}, and its route says {expected.input_dtype}")
        fixed_batch = bool(node.shape) and isinstance(node.shape[0], int)
        if fixed_batch or len(node.shape) != 1 + len(expected.input_shape):
            raise ModelError(
                f"model {self.digest[:12]} takes shape {node.shape}; it must be a free batch axis and then "
                f"{list(expected.input_shape)}; export it with a dynamic batch"
            )
        return TensorSpec(node.name, DATATYPES[dtype], (-1, *expected.input_shape))

    def _output_spec(self, node: ort.NodeArg) -> TensorSpec:
        dtype = _ORT_TYPES.get(node.type)
        if dtype is None:
            raise ModelError(f"model {self.digest[:12]} gives {node.type} as {node.name!r}; only numbers can be served")
        inner = tuple(axis if isinstance(axis, int) else -1 for axis in node.shape[1:])
        return TensorSpec(node.name, DATATYPES[dtype], (-1, *inner))

    def _warm_up(self) -> float:
        """Prove the signature on one and on two rows; return the median milliseconds of one row."""
        signature = self._signature
        num_outputs = len(signature.class_names) if signature.task == "classification" else 1
        for num_rows in (2, 1):
            zeros = np.zeros((num_rows, *signature.input_shape), dtype=signature.input_dtype)
            try:
                first = self.try_run(zeros)[0]
            except Exception as error:
                raise ModelError(f"model {self.digest[:12]} fails on {num_rows} rows: {_first_line(error)}") from error
            if first.size != num_rows * num_outputs or len(first) != num_rows:
                raise ModelError(
                    f"model {self.digest[:12]} gives shape {list(first.shape)} for {num_rows} rows; "
                    f"its route says {num_outputs} outputs a row"
                )
        timings = []
        for _ in range(_WARM_UP_RUNS):
            started = time.perf_counter()
            self.try_run(zeros)
            timings.append((time.perf_counter() - started) * 1e3)
        return statistics.median(timings)


def _open(model: bytes) -> ort.InferenceSession:
    """Open a model with exact int8 products where they can be had."""
    try:
        return ort.InferenceSession(model, _session_options(exact=True), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        if _MET_TWICE not in str(error):
            raise
        logger.warning("a layer with int8 weights is used twice: its sums may overflow on this processor without VNNI")
        return ort.InferenceSession(model, _session_options(exact=False), providers=["CPUExecutionProvider"])


def _session_options(*, exact: bool) -> ort.SessionOptions:
    """One thread and no spinning: two sessions that each spin on every core slow each other down threefold."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
    options.log_severity_level = 4
    return options


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
