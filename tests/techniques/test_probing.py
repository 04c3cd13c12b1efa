import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from tasks.contracts.device import FormCost, TrainingForm
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


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


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
    costs, refused = time_steps(network(16), rows, SCHEDULE, "classification", [PLAIN, LAST], "cpu")

    assert list(costs) == [PLAIN, LAST]
    assert all(cost.step_ms > 0.0 for cost in costs.values())
    assert all(cost.setup_ms == 0.0 for cost in costs.values()), "nothing was compiled"
    assert refused == {}
    assert seen == [False] * 2 + [True] * 2 + [False, True] * 9


def test_time_steps_says_which_forms_cannot_be_run(rows: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "instruction_sets", lambda: ("avx2",))
    costs, refused = time_steps(network(4), rows, SCHEDULE, "classification", [PLAIN, LAST, HALF], "cpu")

    assert list(costs) == [PLAIN]
    assert "strided 1x1 convolutions" in refused[LAST]
    assert "precision bfloat16 needs a GPU" in refused[HALF]


def test_time_steps_ends_early_when_steps_are_long(rows: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_SECONDS", 0.0)
    made: list[float] = []
    monkeypatch.setattr(probing._Contender, "step", lambda _: made.append(1.0) or 1.0)
    costs, _ = time_steps(network(4), rows, SCHEDULE, "classification", [PLAIN], "cpu")
    assert costs == {PLAIN: FormCost(step_ms=1000.0)}
    assert len(made) == 2 + 3


def test_time_steps_takes_rows_of_a_regression(rows: Arrays) -> None:
    linear = Architecture(factory="torch.nn:Linear", kwargs={"in_features": 4, "out_features": 1})
    values = Arrays(np.ones((8, 4), np.float32), np.ones(8, np.float32))
    found, _ = time_steps(Network.create(linear, 0).to_bytes(), values, SCHEDULE, "regression", [PLAIN], "cpu")
    assert found[PLAIN].step_ms > 0.0


def test_time_steps_counts_what_compiling_takes_apart_from_the_steps(
    rows: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([60.0, 1.0, *[2.0] * 9])
    monkeypatch.setattr(probing._Contender, "step", lambda _: next(seconds))
    kernels = TrainingForm(compile=True)
    costs, _ = time_steps(network(4), rows, SCHEDULE, "classification", [kernels], "cpu")
    assert costs == {kernels: FormCost(step_ms=2_000.0, setup_ms=57_000.0)}


def test_time_steps_goes_on_with_the_other_forms_when_one_does_not_fit_or_compile(
    rows: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(contender: probing._Contender) -> float:
        if contender._form.compile:
            raise BackendCompilerFailed("inductor", ValueError("no kernel"), None)
        if contender._form.micro_batch is None:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate much.")
        return 1.0

    monkeypatch.setattr(probing._Contender, "step", step)
    whole, kernels, quarter = TrainingForm(), TrainingForm(compile=True), TrainingForm(micro_batch=2)
    costs, refused = time_steps(network(4), rows, SCHEDULE, "classification", [whole, kernels, quarter], "cpu")
    assert list(costs) == [quarter]
    assert refused[whole] == "CUDA out of memory."
    assert "cannot be compiled here" in refused[kernels]


def test_time_steps_does_not_hide_a_defect(rows: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(_: probing._Contender) -> float:
        raise KeyError("a defect")

    monkeypatch.setattr(probing._Contender, "step", step)
    with pytest.raises(KeyError, match="a defect"):
        time_steps(network(4), rows, SCHEDULE, "classification", [PLAIN], "cpu")


def test_time_steps_takes_the_same_step_with_fewer_rows_at_once(rows: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = Architecture(factory="tests.techniques.test_probing:flat")
    stepped: list[torch.Tensor] = []
    real = probing._Contender.step

    def step(contender: probing._Contender) -> float:
        took = real(contender)
        stepped.append(next(contender._module.parameters()).detach().clone())
        return took

    monkeypatch.setattr(probing._Contender, "step", step)
    forms = [TrainingForm(micro_batch=3)]
    time_steps(Network.create(linear, 0).to_bytes(), rows, SCHEDULE, "classification", forms, "cpu")
    parts, stepped = stepped, []
    time_steps(Network.create(linear, 0).to_bytes(), rows, SCHEDULE, "classification", [PLAIN], "cpu")
    torch.testing.assert_close(parts, stepped)
