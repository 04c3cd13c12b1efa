import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.adapters.locks import FileLocks
from tasks.contracts.resources import Resources
from tasks.runtime.placement import LocalPlacement, run_placed, visible_gpus


def devices() -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_stage_sees_the_gpu_that_it_was_given_and_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    placement = LocalPlacement(FileLocks(tmp_path))

    def seen(num_gpus: float) -> str:
        return run_placed(placement, devices, resources=Resources(num_gpus=num_gpus))

    with placement._gpus.taken(1, 1, "another stage") as others, ThreadPoolExecutor() as threads:
        (left,) = {"3", "7"} - set(others)
        asked = [threads.submit(seen, 1), threads.submit(seen, 1)]
        assert [one.result() for one in asked] == [left, left]
    assert seen(0) == "3,7"


def test_visible_gpus_are_those_that_the_environment_names_or_the_driver_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-5e")
    assert visible_gpus() == ["0", "GPU-5e"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for address in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / address).mkdir()
    assert visible_gpus(tmp_path) == ["0", "1"]
    assert visible_gpus(tmp_path / "none") == []
