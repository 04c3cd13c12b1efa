"""The fingerprint of the machine that runs this process: figures are compared within one fingerprint only."""

import math
import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil

from tasks.contracts.evaluation import Machine

_ENGINES = ("numpy", "onnxruntime", "torch")


def current_machine() -> Machine:
    """Return the fingerprint; every process of the same machine and container gets the same one."""
    return Machine(
        processor=processor_model(),
        num_cpus=usable_cpus(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        provider="CPUExecutionProvider",
        versions={name: version(name) for name in _ENGINES},
    )


def processor_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model name as the kernel gives it, else what Python knows of it."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def usable_cpus(cpu_quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many CPUs this process may use at once: its affinity, limited by the container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_quota.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, math.ceil(int(quota) / int(period))))
