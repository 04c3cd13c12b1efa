"""Training by several processes: the same model as by one, and one failure for all."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tasks.contracts.errors import DataError, WorkerLostError
from tasks.contracts.model import EpochRecord
from tasks.contracts.resources import Resources
from tasks.models.resnet import resnet
from tasks.runtime.crews import run_crew
from tasks.runtime.isolation import make_call, outcome_of
from tasks.runtime.placement import LocalPlacement
from tasks.techniques.crew import Crew, joined_crew
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit

SCHEDULE = Schedule(epochs=3, batch_size=16, optimizer="sgd", learning_rate=0.05, checkpoint_every=1)
NUM_ROWS = 45  # batches of 16, 16 and 13 rows: unequal shards


class FileCheckpoints:
    def __init__(self, path: Path, *, writes: bool) -> None:
        self._path, self._writes = path, writes

    def save(self, data: bytes) -> None:
        if self._writes:
            self._path.write_bytes(data)

    def load(self) -> bytes | None:
        return self._path.read_bytes() if self._path.exists() else None


def rows() -> Arrays:
    generator = np.random.default_rng(3)
    return Arrays(
        generator.normal(size=(NUM_ROWS, 1, 8, 8)).astype(np.float32), np.arange(NUM_ROWS, dtype=np.int64) % 3
    )


def make_network(kind: str) -> nn.Module:
    torch.manual_seed(7)
    if kind == "plain":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    return resnet((1, 8, 8), num_outputs=3, width=4, blocks=[1], dropout=0.2)


def train(kind: str, num_shards: int, checkpoint: str, epochs_before_loss: int = 0) -> dict[str, list[float]]:
    """Train, and return weights and buffers; with `epochs_before_loss` one process dies after so many epochs."""
    records: list[EpochRecord] = []

    with joined_crew(num_shards) as crew:

        def report(record: EpochRecord) -> None:
            records.append(record)
            if epochs_before_loss and record.step == epochs_before_loss + 1 and crew.rank == crew.size - 1:
                os._exit(9)

        context = StageContext(
            task="classification",
            input_shape=(1, 8, 8),
            num_outputs=3,
            seed=5,
            load_split=lambda _: pytest.fail("the loop loads nothing"),
            load_baseline=lambda: pytest.fail("there is no baseline"),
            checkpoints=FileCheckpoints(Path(checkpoint), writes=crew.leads),
            report=report,
            crew=crew,
        )
        module = make_network(kind)
        fit(module, rows(), label_loss("classification"), SCHEDULE, context)
    state = {name: tensor.flatten().tolist() for name, tensor in module.state_dict().items()}
    return state | {"loss": [record.metrics["loss"] for record in records]}


def fail_on_one(folder: str) -> str:
    """Fail in the second process while the first one waits for it."""
    with joined_crew(2) as crew:
        if crew.rank == 1:
            raise DataError("row 7 is broken")
        crew.add_up([torch.ones(1)])
    return folder


def outlive(folder: str) -> str:
    time.sleep(600)
    return folder


def end_different() -> str:
    with joined_crew(2) as crew:
        crew.require_same("ab" * 32 if crew.rank == 0 else "cd" * 32)
    return "not reached"


def by(size: int, function: Any, **arguments: Any) -> Any:
    call = make_call(function, arguments, resources=Resources(num_workers=2, timeout_s=120.0))
    return outcome_of(function, run_crew(call, size, [], lambda _: None))


def assert_close(first: dict[str, list[float]], second: dict[str, list[float]], tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values == pytest.approx(second[name], rel=tolerance, abs=tolerance), name


def test_shards_of_a_network_without_batch_norm_and_dropout_add_up_to_the_whole_batch(tmp_path: Path) -> None:
    whole = train("plain", num_shards=1, checkpoint=str(tmp_path / "one"))
    divided = train("plain", num_shards=3, checkpoint=str(tmp_path / "three"))
    assert_close(divided, whole, tolerance=1e-5)


def test_the_outcome_depends_on_the_shards_and_not_on_the_processes(tmp_path: Path) -> None:
    alone = train("resnet", num_shards=2, checkpoint=str(tmp_path / "alone"))
    together = by(2, train, kind="resnet", num_shards=2, checkpoint=str(tmp_path / "together"))
    assert_close(together, alone, tolerance=1e-5)
    counts = [values for name, values in alone.items() if name.endswith("num_batches_tracked")]
    assert counts != []
    assert all(values == [9] for values in counts), "one for each batch, not for each shard"


def test_after_a_loss_fewer_processes_go_on_to_the_same_model(tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "lost")
    with pytest.raises(WorkerLostError):
        by(2, train, kind="resnet", num_shards=2, checkpoint=checkpoint, epochs_before_loss=1)
    assert Path(checkpoint).exists()
    resumed = train("resnet", num_shards=2, checkpoint=checkpoint)
    assert_close(resumed, train("resnet", num_shards=2, checkpoint=str(tmp_path / "new")), tolerance=1e-5)


def test_the_failure_of_one_process_is_that_of_all_and_ends_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 7 is broken"):
        by(2, fail_on_one, folder=str(tmp_path))


def test_processes_that_end_with_different_models_are_found_out() -> None:
    with pytest.raises(WorkerLostError, match="2 processes that trained one model ended with different ones"):
        by(2, end_different)


def test_a_machine_runs_as_many_processes_as_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-5e")
    placement = LocalPlacement()

    def size(num_threads: int = 1, **resources: Any) -> int:
        return placement._crew_size(make_call(outlive, {}, resources=Resources(**resources), num_threads=num_threads))

    assert size(num_workers=4) == 4
    assert size(num_workers=4, num_threads=3) == 2
    assert size(num_workers=4, num_threads=16) == 1
    assert size(num_workers=4, num_gpus=1) == 2


def test_a_process_gets_every_so_manieth_shard() -> None:
    assert Crew(rank=1, size=2, num_shards=5).own("abcde") == [(1, "b"), (3, "d")]
    assert Crew().own("a") == [(0, "a")]
