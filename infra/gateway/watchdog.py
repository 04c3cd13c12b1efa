"""Ends model runs that take too long, wherever they run."""

import threading
import time

import onnxruntime as ort

_SHORTEST_INTERVAL_S, _LONGEST_INTERVAL_S = 0.005, 0.1
_CHECKS_WITHIN_TIMEOUT = 20
"""A run ends late by a twentieth of its time, or 5 ms; each check takes the interpreter from the event loop."""


class Watchdog:
    """A thread that asks onnxruntime to stop a run whose deadline has passed.

    A run inside the event loop cannot be awaited with a timeout; this works there and in threads
    alike. onnxruntime looks at the request between two nodes of the graph.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._interval_s = min(_LONGEST_INTERVAL_S, max(_SHORTEST_INTERVAL_S, timeout_s / _CHECKS_WITHIN_TIMEOUT))
        self._running: dict[int, tuple[float, ort.RunOptions]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gateway-watchdog", daemon=True)

    def start(self) -> None:
        """Begin watching."""
        self._thread.start()

    def stop(self) -> None:
        """End watching; runs still going are no longer limited."""
        self._stopped.set()
        self._thread.join()

    def begin(self) -> ort.RunOptions:
        """Give the options for one run; past the deadline, their `terminate` is set. Call `end` after the run."""
        options = ort.RunOptions()
        options.log_severity_level = 4  # the reason is raised, not printed
        self._running[id(options)] = (time.monotonic() + self._timeout_s, options)
        return options

    def end(self, options: ort.RunOptions) -> None:
        """Stop watching a run."""
        del self._running[id(options)]

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            now = time.monotonic()
            for deadline, options in list(self._running.values()):
                if now > deadline:
                    options.terminate = True
