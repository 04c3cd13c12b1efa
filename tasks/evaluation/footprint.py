"""Measures one model's memory and cold start in the process that it runs in; started afresh for every measurement.

Run as `python -m tasks.evaluation.footprint FORMAT MODEL WARM_UP ROWS`, three files of which the first
two are models of FORMAT (`onnx` or `torch`) and the last an npy with rows. It imports the runtime, lets
it answer once with the tiny WARM_UP model, writes `ready`, waits for a line on standard input, and then
writes one JSON object. So what every model costs alike (imports, the runtime's own start) is not in the
figures, and whoever starts it can let the preparation of several overlap and the measurement not.
"""

import contextlib
import ctypes
import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import Literal, cast

import numpy as np

from tasks.evaluation.runners import make_runner

_NUM_RUNS = 3


def peak_memory_bytes() -> int:
    """Return the process's resident-set high-water mark."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def settle_memory() -> None:
    """Give freed memory back and lower the high-water mark to what is resident now, where the system can.

    Else a small model would fit into what the imports left over and seem to cost nothing.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def measure(model_file: Path, model_format: Literal["onnx", "torch"], rows: np.ndarray) -> dict[str, float]:
    """Load and run the model.

    Returns:
        `peak_memory_bytes`, the growth of the high-water mark by reading, loading and running the
        model on one row and on all `rows` [B, *input_shape]; and `cold_start_ms`, from the model's
        bytes to the first answer.
    """
    settle_memory()
    before = peak_memory_bytes()
    model = model_file.read_bytes()
    started_ns = time.perf_counter_ns()
    runner = make_runner(model, model_format)
    runner.run(rows[:1])
    cold_start_ms = (time.perf_counter_ns() - started_ns) / 1e6
    for _ in range(_NUM_RUNS):
        runner.run(rows)
    return {"peak_memory_bytes": peak_memory_bytes() - before, "cold_start_ms": cold_start_ms}


def main(arguments: list[str]) -> None:
    """Be the process that the head of this module describes."""
    model_format = cast(Literal["onnx", "torch"], arguments[0])
    model_file, warm_up_file, rows_file = map(Path, arguments[1:])
    channel = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # a user's model factory may print
        if model_format == "torch":
            import torch

            torch.set_num_threads(1)
        rows = np.load(rows_file, allow_pickle=False)
        make_runner(warm_up_file.read_bytes(), model_format).run(np.zeros((1, 1), np.float32))
        channel.write("ready\n")
        channel.flush()
        if sys.stdin.readline():  # the end of the input means that nobody waits any more
            channel.write(json.dumps(measure(model_file, model_format, rows)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
