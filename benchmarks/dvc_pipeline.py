"""A DVC pipeline with the stages and the artifacts of a run, for timing `dvc repro` with nothing to do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tasks.contracts.artifact import artifact_key
from tasks.runtime.caching import referenced_artifacts

_DVC = (sys.executable, "-m", "dvc")


def make_pipeline(store: Path, folder: Path) -> int:
    """Make a stage for each record of the store, whose outputs are the record's artifacts; reproduce it once.

    Each stage depends on the outputs of the one before it, so that all are looked at, and would copy its artifacts.

    Returns:
        How many stages there are.
    """
    folder.mkdir(parents=True)
    _dvc(folder, "init", "--no-scm", "--quiet")
    stages: dict[str, Any] = {}
    before: list[str] = []
    for number, digests in enumerate(_artifacts_of_stages(store)):
        outputs = [f"out/{number}/{digest}" for digest in digests]
        copies = [f"cp {store / artifact_key(digest)} out/{number}/{digest}" for digest in digests]
        stages[f"stage-{number}"] = {
            "cmd": [f"mkdir -p out/{number}", *copies],
            "deps": before,
            "outs": outputs,
        }
        before = outputs
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False), encoding="utf-8")
    _dvc(folder, "repro", "--quiet")
    return len(stages)


def reproduce(folder: Path) -> None:
    """Call `dvc repro` where everything is up to date.

    Raises:
        AssertionError: it was not.
    """
    told = _dvc(folder, "repro")
    assert "Data and pipelines are up to date." in told, told


def _artifacts_of_stages(store: Path) -> list[list[str]]:
    records = sorted((store / "stages").rglob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    named = [sorted(referenced_artifacts(json.loads(json.loads(path.read_bytes())["result"]))) for path in records]
    return [digests for digests in named if digests]


def _dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*_DVC, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
