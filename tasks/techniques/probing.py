"""Timing an optimizer step in several forms, on the device that a stage trains on."""

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.contracts.data import Task
from tasks.contracts.device import TrainingForm
from tasks.contracts.errors import TechniqueError
from tasks.techniques.layout import survives_channels_last
from tasks.techniques.loss import Batch, label_loss
from tasks.techniques.precision import computing_in, widened
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays
from tasks.techniques.training import make_optimizer

if TYPE_CHECKING:
    from torch import nn

_WARM_UPS, _STEPS, _LEAST_STEPS = 2, 9, 3
_SECONDS = 20.0
"""After this long a probe ends, once each form has made its least number of steps."""


def time_steps(
    network: bytes, rows: Arrays, schedule: Schedule, task: Task, forms: Sequence[TrainingForm], device: str
) -> tuple[dict[TrainingForm, float], dict[TrainingForm, str]]:
    """Return the median milliseconds of a step in each form, and the reasons of the forms that cannot be run.

    The forms take turns, so that whatever slows the device slows all of them. Each trains a network of its own.

    Args:
        network: torch artifact that each form begins with.
        rows: one batch of the schedule's, labels included.
        schedule: its optimizer and label smoothing are used.
        task: what the labels are.
        forms: what to time.
        device: torch device.
    """
    contenders: dict[TrainingForm, _Contender] = {}
    refused: dict[TrainingForm, str] = {}
    for form in forms:
        try:
            contender = _Contender(network, rows, schedule, task, form, device)
            for _ in range(_WARM_UPS):
                contender.step()
            contenders[form] = contender
        except TechniqueError as error:
            refused[form] = str(error)
    seconds: dict[TrainingForm, list[float]] = {form: [] for form in contenders}
    began = time.perf_counter()
    for turn in range(_STEPS):
        if turn >= _LEAST_STEPS and time.perf_counter() - began > _SECONDS:
            break
        for form, contender in contenders.items():
            seconds[form].append(contender.step())
    return {form: statistics.median(times) * 1e3 for form, times in seconds.items()}, refused


class _Contender:
    """A network that trains in one form."""

    def __init__(
        self, network: bytes, rows: Arrays, schedule: Schedule, task: Task, form: TrainingForm, device: str
    ) -> None:
        import torch

        from tasks.models.architecture import Network

        self._form, self._device = form, device
        self._module: nn.Module = Network.from_bytes(network).module.to(device).train()
        inputs = torch.from_numpy(rows.x).to(device)
        if form.channels_last:
            if not survives_channels_last(self._module, device):
                raise TechniqueError("the network has strided 1x1 convolutions of few channels, which stay in NCHW")
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            inputs = inputs.to(memory_format=torch.channels_last)
        labels_B = torch.from_numpy(rows.y).to(device)
        self._batch = Batch(inputs, labels_B, torch.arange(len(labels_B), device=device))
        self._loss = label_loss(task, schedule.label_smoothing)
        self._optimizer = make_optimizer(self._module, schedule)

    def step(self) -> float:
        """Make an optimizer step; return its seconds."""
        started = time.perf_counter()
        self._optimizer.zero_grad(set_to_none=True)
        with computing_in(self._form.precision, self._device):
            outputs_BK = widened(self._module(self._batch.inputs))
        self._loss(outputs_BK, self._batch).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        """Wait for the GPU, which works on after the calls return."""
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()
