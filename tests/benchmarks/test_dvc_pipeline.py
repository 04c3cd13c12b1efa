import json
from pathlib import Path

import pytest

from benchmarks.dvc_pipeline import make_pipeline, reproduce
from tasks.adapters.local_store import LocalArtifacts, LocalRecords


@pytest.mark.slow
def test_the_pipeline_has_a_stage_for_each_record_and_knows_when_nothing_is_to_be_done(tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "pipeline"
    artifacts, records = LocalArtifacts(store), LocalRecords(store)
    for number in range(3):
        ref = artifacts.put(f"artifact {number}".encode())
        records.write(f"stage/{number}", json.dumps({"result": json.dumps(ref.model_dump(mode="json"))}).encode())

    assert make_pipeline(store, folder) == 3
    reproduce(folder)
    next((folder / "out").rglob("*/*")).unlink()
    with pytest.raises(AssertionError):
        reproduce(folder)
