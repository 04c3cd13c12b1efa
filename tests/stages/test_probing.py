from collections.abc import Callable

import numpy as np
import pytest

from tasks.contracts.data import DatasetRef
from tasks.contracts.device import Device, TrainingForm
from tasks.contracts.errors import InfrastructureError
from tasks.contracts.model import Architecture, ModelRef
from tasks.evaluation.device import current_device
from tasks.models.architecture import Network
from tasks.runtime.services import Services
from tasks.stages import probing
from tasks.stages.probing import probe_forms
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays

OPEN = Schedule(batch_size=8, precision="auto", channels_last="auto")
RESNET = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 8, "blocks": [1]})


@pytest.fixture
def data(store_dataset: Callable[..., DatasetRef]) -> DatasetRef:
    images = np.random.default_rng(0).normal(size=(6, 1, 8, 8)).astype(np.float32)
    return store_dataset(images, np.arange(6) % 3, "classification", ("ant", "bee", "cat"))


def test_probe_forms_times_what_is_open_and_chooses_the_fastest(
    services: Services, data: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Arrays] = []

    def timed(network: bytes, rows: Arrays, *_: object) -> tuple[dict[TrainingForm, float], dict[TrainingForm, str]]:
        given.append(rows)
        return {TrainingForm(): 3.0, TrainingForm(channels_last=True): 2.0}, {TrainingForm(precision="bfloat16"): "no"}

    monkeypatch.setattr(probing, "time_steps", timed)
    found = probe_forms(RESNET, OPEN, data, 0, 0.0, current_device(0.0))

    assert found.chosen == TrainingForm(channels_last=True)
    assert found.step_ms == {"float32": 3.0, "float32, channels last": 2.0}
    assert found.refused == {"bfloat16": "no"}
    assert found.device == current_device(0.0)
    assert given[0].x.shape == (6, 1, 8, 8), "there are no more rows"


def test_probe_forms_really_trains_the_model_that_it_is_given(
    services: Services, data: DatasetRef, store_model: Callable[..., ModelRef]
) -> None:
    made = Architecture(factory=RESNET.factory, kwargs={**RESNET.kwargs, "input_shape": [1, 8, 8], "num_outputs": 3})
    stored = store_model(Network.create(made, seed=0).to_bytes(), "torch")
    found = probe_forms(stored, OPEN, data, 0, 0.0, current_device(0.0))

    assert {"float32", "float32, channels last"} <= set(found.step_ms)
    assert found.chosen.label in found.step_ms


def test_probe_forms_refuses_when_it_runs_on_another_device(services: Services, data: DatasetRef) -> None:
    elsewhere = Device(machine=current_device(0.0).machine, gpu="Imaginary GPU (9.9)")
    with pytest.raises(InfrastructureError, match=r"asked for Imaginary GPU \(9\.9\) and runs on"):
        probe_forms(RESNET, OPEN, data, 0, 0.0, elsewhere)


def test_probe_forms_times_nothing_when_there_is_one_form(
    services: Services, store_dataset: Callable[..., DatasetRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "time_steps", lambda *_: pytest.fail("there is nothing to choose from"))
    rows = store_dataset(np.ones((6, 4), np.float32), np.arange(6) % 3, "classification", ("ant", "bee", "cat"))
    found = probe_forms(RESNET, Schedule(channels_last="auto"), rows, 0, 0.0, current_device(0.0))

    assert (found.chosen, found.step_ms) == (TrainingForm(), {})
