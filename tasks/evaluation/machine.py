"""The fingerprint of the machine that runs this process: figures are compared within one fingerprint only."""

import math
import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil

from tasks.contracts.evaluation import Machine

_ENGINES = ("numpy", "onnxruntime", "torch")
_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16 = ("avx512bw", "bf16")
"""Any of them is enough. Seen to be slow was a processor with AVX2 alone; AVX-512 without BF16 was not measured."""
_VNNI = ("avx_vnni", "avx512_vnni")
_INSTRUCTIONS = (
    *("avx2", "avx512bw", "avx_vnni", "avx512_vnni", "amx_int8", "avx512_bf16", "amx_bf16"),  # x86
    *("asimd", "asimddp", "i8mm", "sve", "bf16"),  # ARM
)


def current_machine() -> Machine:
    """Return the fingerprint; every process of the same machine and container gets the same one."""
    return Machine(
        processor=processor_model(),
        num_cpus=usable_cpus(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        provider="CPUExecutionProvider",
        versions={name: version(name) for name in _ENGINES},
        instructions=instruction_sets(),
    )


def instruction_sets(cpuinfo: Path = _CPUINFO) -> tuple[str, ...]:
    """Return those of the known instruction sets that the kernel lists; none where it lists nothing."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ()
    listed = {
        flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()
    }
    return tuple(name for name in _INSTRUCTIONS if name in listed)


def computes_bfloat16(instructions: tuple[str, ...]) -> bool | None:
    """Tell whether a processor with these instruction sets trains well in bfloat16; None where none are known."""
    return any(name in instructions for name in _BFLOAT16) if instructions else None


def multiplies_int8_exactly(instructions: tuple[str, ...]) -> bool:
    """Tell whether sums of int8 products cannot overflow: 8-bit dot products of x86 (VNNI), or any other processor."""
    return "avx2" not in instructions or any(name in instructions for name in _VNNI)


def processor_model(cpuinfo: Path = _CPUINFO) -> str:
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
