"""What a stage used of the machine that it ran on: a short series, taken from outside its process.

MLflow's own monitor samples the process that logs, which is the flow's; a stage runs in another one, often on another
host. So whoever started the stage's process looks, under MLflow's names for what it looks at.
"""

import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from tasks.contracts.model import UsageSample

_PAUSE_S = 1.0
_MAX_SAMPLES = 128
"""Of a long stage, two neighbours become one and the pause doubles: a day's training has as many as two minutes'."""
_MEGABYTE = 1e6

_logger = logging.getLogger(__name__)

Gpus = Callable[[], dict[str, float]]


class UsageSampler:
    """Looks at the machine and at one process, in a thread of its own, until it is stopped."""

    def __init__(self, pid: int, pause_s: float = _PAUSE_S, gpus: Gpus | None = None) -> None:
        self._process = psutil.Process(pid)
        self._pause_s = pause_s
        self._gpus = gpus or gpu_reader()
        self._began = time.monotonic()
        self._machine = _machine_times()
        self._own = self._process.cpu_times()
        self._looked = self._began
        self._samples: list[UsageSample] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stage-usage", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> tuple[UsageSample, ...]:
        """Look no more; return what was seen."""
        self._stopped.set()
        self._thread.join()
        return tuple(self._samples)

    def look(self) -> None:
        """Take one sample: means since the last one for processors, the moment for memory."""
        now = time.monotonic()
        elapsed_s, self._looked = now - self._looked, now
        machine, own = _machine_times(), self._process.cpu_times()
        busy, total = (after - before for after, before in zip(machine, self._machine, strict=True))
        own_s = own.user + own.system - self._own.user - self._own.system
        self._machine, self._own = machine, own
        memory = psutil.virtual_memory()
        seen = {
            "cpu_utilization_percentage": 100.0 * busy / total if total > 0 else 0.0,
            "system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system_memory_usage_percentage": 100.0 * memory.used / memory.total,
            "stage_cpu_percentage": 100.0 * own_s / elapsed_s if elapsed_s > 0 else 0.0,
            "stage_memory_megabytes": self._process.memory_info().rss / _MEGABYTE,
        } | self._gpus()
        rounded = {name: round(value, 1) for name, value in seen.items()}
        self._samples.append(UsageSample(at_s=round(now - self._began, 1), metrics=rounded))
        if len(self._samples) >= _MAX_SAMPLES:
            self._samples = _halved(self._samples)
            self._pause_s *= 2

    def _run(self) -> None:
        while not self._stopped.wait(self._pause_s):
            try:
                self.look()
            except (psutil.Error, OSError) as error:  # the process has ended, or the machine does not tell
                _logger.info("usage is not sampled any more: %s", error)
                return


@contextmanager
def sampled(pid: int, *, wanted: bool) -> Iterator[Callable[[], tuple[UsageSample, ...]]]:
    """Sample a process for the block, if `wanted`; what is given ends it and returns the samples.

    Nothing that goes wrong here ends the block.
    """
    try:
        sampler = UsageSampler(pid) if wanted else None
    except (psutil.Error, OSError) as error:
        _logger.info("usage is not sampled: %s", error)
        sampler = None
    if sampler is None:
        yield tuple
        return
    sampler.start()
    try:
        yield sampler.stop
    finally:
        sampler.stop()


def gpu_reader() -> Gpus:
    """Return what reads the GPUs; nothing where NVIDIA's library or its Python package (nvidia-ml-py) is not there."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        devices = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
    except ImportError:
        return dict
    except nvml.NVMLError as error:
        _logger.info("GPUs are not sampled: %s", error)
        return dict
    return lambda: {name: value for number, one in enumerate(devices) for name, value in _gpu(nvml, number, one)}


def _gpu(nvml: Any, number: int, device: Any) -> Iterator[tuple[str, float]]:
    """Give what a device tells; some tell no power, and partitions tell no utilisation."""
    asked: dict[str, Callable[[], float]] = {
        "utilization_percentage": lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu,
        "memory_usage_megabytes": lambda: nvml.nvmlDeviceGetMemoryInfo(device).used / _MEGABYTE,
        "memory_usage_percentage": lambda: _share(nvml.nvmlDeviceGetMemoryInfo(device)),
        "power_usage_watts": lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000.0,
    }
    for name, ask in asked.items():
        try:
            yield f"gpu_{number}_{name}", float(ask())
        except nvml.NVMLError as error:
            _logger.debug("GPU %d tells no %s: %s", number, name, error)


def _share(memory: Any) -> float:
    return 100.0 * float(memory.used) / float(memory.total)


def _machine_times() -> tuple[float, float]:
    """Return busy and all processor seconds since the machine started."""
    times = psutil.cpu_times()
    # Linux counts guests within user and nice, and waiting for disks is idleness
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _halved(samples: list[UsageSample]) -> list[UsageSample]:
    """Make one of every two neighbours: their mean, at the later one's time."""
    pairs = zip(samples[::2], samples[1::2], strict=True)
    return [
        UsageSample(
            at_s=late.at_s,
            metrics={
                name: round((value + early.metrics.get(name, value)) / 2, 1) for name, value in late.metrics.items()
            },
        )
        for early, late in pairs
    ]
