"""Open schedules are settled by a probe on the device that trains, and only those."""

from typing import Any

import pytest

from flows import forms
from tasks.contracts.data import DatasetRef
from tasks.contracts.device import Device, FormCost, ProbedForms, TrainingForm
from tasks.contracts.model import Architecture, ModelRef
from tasks.contracts.resources import Resources
from tasks.evaluation.device import current_device
from tasks.techniques.baseline import TrainSpec
from tasks.techniques.distillation.distill_response import DistillResponse
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.schedule import Schedule

NETWORK = Architecture(factory="torch.nn:Linear")
DATA: Any = object()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Resources, int, Device]]:
    calls: list[tuple[Resources, int, Device]] = []
    chosen = TrainingForm(precision="bfloat16")

    def probe(
        model: Architecture, schedule: Schedule, data: DatasetRef, seed: int, resources: Resources, threads: int,
        device: Device,
    ) -> ProbedForms:  # fmt: skip
        calls.append((resources, threads, device))
        return ProbedForms(device=device, chosen=chosen, costs={"float32": FormCost(step_ms=2.0)})

    class Logger:
        def info(self, *_: object) -> None: ...

    monkeypatch.setattr(forms, "detect", lambda resources: current_device(0.0))
    monkeypatch.setattr(forms, "probe", probe)
    monkeypatch.setattr(forms, "get_run_logger", Logger)
    return calls


def test_settle_probes_with_the_stages_own_threads_and_one_process(
    asked: list[tuple[Resources, int, Device]],
) -> None:
    spec = TrainSpec(
        model=NETWORK,
        schedule=Schedule(precision="auto"),
        resources=Resources(num_gpus=1, num_workers=4),
        num_threads=3,
    )
    settled = forms.settle(spec, NETWORK, DATA, 0)

    assert settled.schedule == Schedule(precision="bfloat16")
    assert settled.resources.num_workers == 4
    assert asked == [(Resources(num_gpus=1), 3, current_device(0.0))]


def test_settle_probes_nothing_when_all_is_stated(asked: list[tuple[Resources, int, Device]]) -> None:
    spec = TrainSpec(model=NETWORK)
    assert forms.settle(spec, NETWORK, DATA, 0) is spec
    assert asked == []


def test_settle_chain_probes_a_student_and_else_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline = ModelRef(digest="a" * 64, format="torch", size_bytes=1)
    chain = (DistillResponse(student=NETWORK), DistillResponse(), QuantizeStatic())
    probed: list[Any] = []
    monkeypatch.setattr(forms, "settle", lambda one, model, data, seed: probed.append(model) or one)

    assert forms.settle_chain(chain, baseline, DATA, 0) == chain
    assert probed == [NETWORK, baseline, baseline]
