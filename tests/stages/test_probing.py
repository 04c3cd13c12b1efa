from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tasks.contracts.data import DatasetRef
from tasks.contracts.device import Device, FormCost, TrainingForm
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
HALF = TrainingForm(precision="bfloat16")
Timed = tuple[dict[TrainingForm, FormCost], dict[TrainingForm, str]]
RESNET = Architecture(factory="tasks.models.resnet:resnet", kwargs={"width": 8, "blocks": [1]})


@pytest.fixture
def data(store_dataset: Callable[..., DatasetRef]) -> DatasetRef:
    images = np.random.default_rng(0).normal(size=(6, 1, 8, 8)).astype(np.float32)
    return store_dataset(images, np.arange(6) % 3, "classification", ("ant", "bee", "cat"))


def test_probe_forms_times_what_is_open_and_chooses_the_fastest(
    services: Services, data: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Arrays] = []

    plain, last = FormCost(step_ms=3.0), FormCost(step_ms=2.0)

    def timed(network: bytes, rows: Arrays, *_: object) -> Timed:
        given.append(rows)
        return {TrainingForm(): plain, TrainingForm(channels_last=True): last}, {HALF: "no"}

    monkeypatch.setattr(probing, "time_steps", timed)
    found = probe_forms(RESNET, OPEN, data, 0, 0.0, current_device(0.0))

    assert found.chosen == TrainingForm(channels_last=True)
    assert found.costs == {"float32": plain, "float32, channels last": last}
    assert found.refused == {"bfloat16": "no"}
    assert found.device == current_device(0.0)
    assert given[0].x.shape == (6, 1, 8, 8), "there are no more rows"


def test_probe_forms_really_trains_the_model_that_it_is_given(
    services: Services, data: DatasetRef, store_model: Callable[..., ModelRef]
) -> None:
    made = Architecture(factory=RESNET.factory, kwargs={**RESNET.kwargs, "input_shape": [1, 8, 8], "num_outputs": 3})
    stored = store_model(Network.create(made, seed=0).to_bytes(), "torch")
    found = probe_forms(stored, OPEN, data, 0, 0.0, current_device(0.0))

    assert {"float32", "float32, channels last"} <= set(found.costs)
    assert found.chosen.label in found.costs


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

    assert (found.chosen, found.costs) == (TrainingForm(), {})
    stated = Schedule(channels_last="auto", compile=True, micro_batch=16)
    kept = probe_forms(RESNET, stated, rows, 0, 0.0, current_device(0.0)).chosen
    assert kept == TrainingForm(compile=True, micro_batch=16), "what is stated is kept"


def test_probe_forms_asks_one_question_after_the_other(
    services: Services, data: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight rows do not fit at once; in fours channels last are faster, compiled still more, and pairs are not."""
    schedule = Schedule(
        epochs=1_000, batch_size=8, precision="float32", channels_last="auto", compile="auto", micro_batch="auto"
    )
    asked: list[list[str]] = []
    costs = {
        "float32, 4 rows at once": FormCost(step_ms=8.0),
        "float32, channels last, 4 rows at once": FormCost(step_ms=6.0),
        "float32, channels last, compiled, 4 rows at once": FormCost(step_ms=3.0, setup_ms=900.0),
        "float32, channels last, compiled, 2 rows at once": FormCost(step_ms=3.1, setup_ms=900.0),
    }

    def timed(*given: Any) -> Timed:
        forms = given[4]
        asked.append([form.label for form in forms])
        found = {form: costs[form.label] for form in forms if form.label in costs}
        return found, {form: "too large" for form in forms if form not in found}

    monkeypatch.setattr(probing, "time_steps", timed)
    found = probe_forms(RESNET, schedule, data, 0, 0.0, current_device(0.0))

    assert asked == [
        ["float32", "float32, channels last"],
        list(costs)[:2],
        list(costs)[1:3],
        list(costs)[2:],
    ]
    assert found.chosen == TrainingForm(channels_last=True, compile=True, micro_batch=4)
    assert list(found.costs) == list(costs)
    assert found.refused == {"float32": "too large", "float32, channels last": "too large"}


def test_probe_forms_does_not_compile_for_a_short_training(
    services: Services, data: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*given: Any) -> Timed:
        return {form: FormCost(step_ms=1.0, setup_ms=900.0 * form.compile) for form in given[4]}, {}

    monkeypatch.setattr(probing, "time_steps", timed)
    found = probe_forms(RESNET, Schedule(epochs=1, batch_size=8, compile="auto"), data, 0, 0.0, current_device(0.0))
    assert found.chosen == TrainingForm()
    assert found.costs["float32, compiled"].setup_ms == 900.0


def test_probe_forms_chooses_the_plainest_form_where_none_can_be_run(
    services: Services, data: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "time_steps", lambda *given: ({}, dict.fromkeys(given[4], "too large")))
    found = probe_forms(RESNET, Schedule(batch_size=8, micro_batch="auto"), data, 0, 0.0, current_device(0.0))
    assert (found.chosen, found.costs) == (TrainingForm(), {})
    assert len(found.refused) == 3, "8, 4 and 2 rows at once"
