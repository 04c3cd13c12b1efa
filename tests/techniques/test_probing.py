import numpy as np
import pytest
import torch

from tasks.contracts.device import TrainingForm
from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.techniques import precision, probing
from tasks.techniques.probing import time_steps
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays

PLAIN, LAST = TrainingForm(), TrainingForm(channels_last=True)
HALF = TrainingForm(precision="bfloat16")
SCHEDULE = Schedule(batch_size=8)


def network(width: int) -> bytes:
    kwargs = {"input_shape": [1, 8, 8], "num_outputs": 3, "width": width, "blocks": [1, 1]}
    return Network.create(Architecture(factory="tasks.models.resnet:resnet", kwargs=kwargs), seed=0).to_bytes()


@pytest.fixture
def rows(images: Arrays) -> Arrays:
    return Arrays(images.x[:8], images.y[:8])


def test_time_steps_lets_each_form_train_in_turns(rows: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    real = probing._Contender.step

    def step(contender: probing._Contender) -> float:
        seen.append(contender._form.channels_last)
        expected = torch.channels_last if contender._form.channels_last else torch.contiguous_format
        kernels = [one for one in contender._module.parameters() if one.ndim == 4 and min(one.shape[1:]) > 1]
        assert all(kernel.is_contiguous(memory_format=expected) for kernel in kernels)
        assert kernels
        return real(contender)

    monkeypatch.setattr(probing._Contender, "step", step)
    step_ms, refused = time_steps(network(16), rows, SCHEDULE, "classification", [PLAIN, LAST], "cpu")

    assert list(step_ms) == [PLAIN, LAST]
    assert all(milliseconds > 0.0 for milliseconds in step_ms.values())
    assert refused == {}
    assert seen == [False] * 2 + [True] * 2 + [False, True] * 9


def test_time_steps_says_which_forms_cannot_be_run(rows: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "instruction_sets", lambda: ("avx2",))
    step_ms, refused = time_steps(network(4), rows, SCHEDULE, "classification", [PLAIN, LAST, HALF], "cpu")

    assert list(step_ms) == [PLAIN]
    assert "strided 1x1 convolutions" in refused[LAST]
    assert "precision bfloat16 needs a GPU" in refused[HALF]


def test_time_steps_ends_early_when_steps_are_long(rows: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_SECONDS", 0.0)
    made: list[float] = []
    monkeypatch.setattr(probing._Contender, "step", lambda _: made.append(1.0) or 1.0)
    assert time_steps(network(4), rows, SCHEDULE, "classification", [PLAIN], "cpu")[0] == {PLAIN: 1000.0}
    assert len(made) == 2 + 3


def test_time_steps_takes_rows_of_a_regression(rows: Arrays) -> None:
    linear = Architecture(factory="torch.nn:Linear", kwargs={"in_features": 4, "out_features": 1})
    values = Arrays(np.ones((8, 4), np.float32), np.ones(8, np.float32))
    found, _ = time_steps(Network.create(linear, 0).to_bytes(), values, SCHEDULE, "regression", [PLAIN], "cpu")
    assert found[PLAIN] > 0.0
