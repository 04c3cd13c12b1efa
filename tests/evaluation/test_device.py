import pytest
import torch

from tasks.evaluation.device import current_device
from tasks.evaluation.machine import current_machine


@pytest.mark.parametrize("num_gpus", [0.0, 1.0])
def test_current_device_is_the_processor_when_no_gpu_is_asked_for_or_there(
    monkeypatch: pytest.MonkeyPatch, num_gpus: float
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus == 0.0)
    found = current_device(num_gpus)
    assert found.gpu is None
    assert found.machine == current_machine()


def test_current_device_names_the_gpu_that_the_stage_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Example 80GB")
    assert current_device(0.5).gpu == "Example 80GB (9.0)"
