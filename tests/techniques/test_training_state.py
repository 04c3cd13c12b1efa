import json

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tasks.contracts.model import EpochRecord
from tasks.techniques.training_state import TrainingState

RECORDS = [EpochRecord(step=1, metrics={"loss": 0.1 + 0.2}), EpochRecord(step=2, metrics={"loss": 1e-17})]


def trained_parts() -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.rand(5, 3)).square().sum().backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(5)
    torch.rand(1, generator=generator)
    return module, optimizer, generator


def snapshot(module: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> list[Tensor]:
    state = optimizer.state_dict()["state"]
    moments = [state[index][key] for index in sorted(state) for key in sorted(state[index])]
    tensors = [*module.state_dict().values(), *moments, generator.get_state(), torch.get_rng_state()]
    return [tensor.clone() for tensor in tensors]


def test_restore_brings_back_weights_moments_generators_and_records() -> None:
    parts = trained_parts()
    data = TrainingState(*parts, purpose="p").to_bytes(RECORDS)
    saved = snapshot(*parts)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    others = module, torch.optim.AdamW(module.parameters()), torch.Generator()
    torch.manual_seed(99)
    assert TrainingState(*others, purpose="p").restore(data) == RECORDS
    for expected, found in zip(saved, snapshot(*others), strict=True):
        assert torch.equal(expected, found)


def test_to_bytes_is_a_safetensors_file_whose_metadata_tell_the_epoch(tmp_path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(TrainingState(*trained_parts(), purpose="p").to_bytes(RECORDS))
    with safetensors.safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        assert "module.0.weight" in opened.keys()  # noqa: SIM118 - not a mapping
    assert metadata["epoch"] == "2"
    assert [EpochRecord.model_validate(record) for record in json.loads(metadata["records"])] == RECORDS


def test_to_bytes_saves_weights_that_share_memory() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module.get_submodule("1").weight = module.get_submodule("0").weight
    state = TrainingState(module, torch.optim.SGD(module.parameters()), torch.Generator(), "p")
    assert state.restore(state.to_bytes([])) == []


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_restore_changes_nothing_and_warns_when_the_file_is_cut_anywhere(
    share: float, caplog: pytest.LogCaptureFixture
) -> None:
    parts = trained_parts()
    state = TrainingState(*parts, purpose="p")
    data = state.to_bytes(RECORDS)
    before = snapshot(*parts)
    assert state.restore(data[: int(share * len(data))]) == []
    assert "is ignored and training starts anew" in caplog.text
    for expected, found in zip(before, snapshot(*parts), strict=True):
        assert torch.equal(expected, found)


def test_restore_says_why_when_the_file_is_of_another_kind(caplog: pytest.LogCaptureFixture) -> None:
    state = TrainingState(*trained_parts(), purpose="p")
    assert state.restore(safetensors.torch.save({"module.0.weight": torch.rand(4, 3)})) == []
    assert state.restore(safetensors.torch.save({"a": torch.rand(1)}, {"format": "other/1"})) == []
    assert state.restore((2).to_bytes(8, "little") + b"[]") == []
    assert "it is not a checkpoint of the training loop" in caplog.text
    assert "its format is 'other/1'" in caplog.text


def test_restore_answers_with_no_records_when_there_is_no_checkpoint() -> None:
    assert TrainingState(*trained_parts(), purpose="p").restore(None) == []
