"""Checks of this machine: versions, disks, data, GPUs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from flows.diagnosis.finding import Finding
from tasks.adapters.dvc import tracked_revision
from tasks.runtime.settings import Settings

_FREE_BYTES_WANTED = 2_000_000_000
_NAMES = ("stillhouse", "prefect", "mlflow", "torch", "onnxruntime", "dvc", "great-expectations")
_TIMEOUT_S = 20.0


def versions() -> Finding:
    """Say what is installed here."""
    return Finding("versions", "ok", ", ".join(f"{name} {version(name)}" for name in _NAMES))


def disk(settings: Settings) -> Finding:
    """Look for room where this machine writes, once for each file system."""
    roots = {settings.home: "STILLHOUSE_HOME", settings.store_root: "STILLHOUSE_STORE"}
    roots |= {settings.traffic_root: "STILLHOUSE_TRAFFIC"}
    seen: dict[int, tuple[Path, str, int]] = {}
    for root, setting in roots.items():
        place = next(folder for folder in (root, *root.parents) if folder.is_dir())  # some are made later
        seen.setdefault(place.stat().st_dev, (place, setting, shutil.disk_usage(place).free))
    return judge_disk(list(seen.values()))


def judge_disk(places: Sequence[tuple[Path, str, int]]) -> Finding:
    """Judge the free bytes of each place; the text says which setting moves it."""
    detail = ", ".join(f"{free / 1e9:.1f} GB free at {place}" for place, _, free in places)
    short = [setting for _, setting, free in places if free < _FREE_BYTES_WANTED]
    if short:
        return Finding("disk", "note", detail, f"free space, or set {' and '.join(short)} to a larger disk")
    return Finding("disk", "ok", detail)


def data(settings: Settings) -> Finding:
    """Tell whether the rows that data.dvc names are here."""
    revision = tracked_revision(settings.project)
    if revision is None:
        return Finding("data", "note", f"no data.dvc in {settings.project}", "set STILLHOUSE_PROJECT to a checkout")
    if not (settings.project / "data").is_dir():
        detail = f"data.dvc tracks {revision}; data/ is not there yet"
        return Finding("data", "note", detail, "`stillhouse data pull`, or just run a plan")
    return Finding("data", "ok", f"data.dvc tracks {revision}; data/ is there")


def gpu() -> Finding:
    """List the GPUs that the driver knows."""
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", "note", "none found; stages run on the CPU")
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    asked = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if asked.returncode:
        return Finding("gpu", "note", f"nvidia-smi fails: {asked.stdout.strip()}", "look at the driver")
    return Finding("gpu", "ok", "; ".join(asked.stdout.strip().splitlines()) or "the driver knows none")
