"""Timing an optimizer step in several forms, on the device that a stage trains on."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tasks.contracts.data import Task
from tasks.contracts.device import FormCost, TrainingForm
from tasks.contracts.errors import TechniqueError, ran_out_of_memory
from tasks.techniques.layout import survives_channels_last
from tasks.techniques.loss import Batch, label_loss
from tasks.techniques.precision import computing_in, widened
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays
from tasks.techniques.training import forward_of, make_optimizer, parts_of

if TYPE_CHECKING:
    from torch import nn

_WARM_UPS, _STEPS, _LEAST_STEPS = 2, 9, 3
_SECONDS = 20.0
"""After this long a probe ends, once each form has made its least number of steps."""


def time_steps(
    network: bytes, rows: Arrays, schedule: Schedule, task: Task, forms: Sequence[TrainingForm], device: str
) -> tuple[dict[TrainingForm, FormCost], dict[TrainingForm, str]]:
    """Return what each form costs, and the reasons of the forms that cannot be run.

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
    warm_up_s: dict[TrainingForm, float] = {}
    seconds: dict[TrainingForm, list[float]] = {}
    with ExitStack() as stack:
        for form in forms:
            try:
                with ExitStack() as trial:
                    contender = _Contender(network, rows, schedule, task, form, device, trial)
                    warm_up_s[form] = sum(contender.step() for _ in range(_WARM_UPS))
                    stack.enter_context(trial.pop_all())
                contenders[form], seconds[form] = contender, []
            except Exception as error:
                if not isinstance(error, TechniqueError) and not ran_out_of_memory(error):
                    raise
                refused[form] = str(error).partition("\n")[0]
        began = time.perf_counter()
        for turn in range(_STEPS):
            if turn >= _LEAST_STEPS and time.perf_counter() - began > _SECONDS:
                break
            for form, contender in contenders.items():
                seconds[form].append(contender.step())
    return {form: _cost(form, warm_up_s[form], times) for form, times in seconds.items()}, refused


def _cost(form: TrainingForm, warm_up_s: float, seconds: list[float]) -> FormCost:
    step_s = statistics.median(seconds)
    setup_s = max(0.0, warm_up_s - _WARM_UPS * step_s) if form.compile else 0.0
    return FormCost(step_ms=round(step_s * 1e3, 3), setup_ms=round(setup_s * 1e3, 3))


class _Contender:
    """A network that trains in one form."""

    def __init__(
        self,
        network: bytes,
        rows: Arrays,
        schedule: Schedule,
        task: Task,
        form: TrainingForm,
        device: str,
        stack: ExitStack,
    ) -> None:
        """Prepare it; `stack` ends what it needs while it trains."""
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
        settled = schedule.model_copy(update=form.model_dump())
        self._forward = stack.enter_context(forward_of(self._module, settled))

    def step(self) -> float:
        """Make an optimizer step; return its seconds."""
        started = time.perf_counter()
        self._optimizer.zero_grad(set_to_none=True)
        num_rows = len(self._batch.labels)
        for part in parts_of(self._batch, self._form.micro_batch or num_rows):
            with computing_in(self._form.precision, self._device):
                outputs_BK = widened(self._forward(part.inputs))
            (self._loss(outputs_BK, part) * (len(part.labels) / num_rows)).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        """Wait for the GPU, which works on after the calls return."""
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()
