"""The work of choosing the form in which a network trains."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tasks.contracts.data import DatasetRef, Task
from tasks.contracts.device import Device, FormCost, ProbedForms, TrainingForm
from tasks.contracts.errors import InfrastructureError
from tasks.contracts.model import Architecture, ModelRef
from tasks.evaluation.device import current_device
from tasks.runtime.services import connect
from tasks.stages.splits import load_split
from tasks.techniques.forms import compiled_forms, fastest, fitting_sizes, halved_forms, open_forms
from tasks.techniques.probing import time_steps
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays
from tasks.techniques.training import device_for

TimeSteps = Callable[[Sequence[TrainingForm]], tuple[dict[TrainingForm, FormCost], dict[TrainingForm, str]]]
"""From forms to the costs of those that can be run, and the reasons of the others."""


def probe_forms(
    model: Architecture | ModelRef, schedule: Schedule, data: DatasetRef, seed: int, num_gpus: float, device: Device
) -> ProbedForms:
    """Time a step of the schedule's batch in the forms that it allows, and choose.

    One question after the other, each with the answers before it: how many rows fit in memory at once; which number
    format and order of memory; whether to compile; whether fewer rows at once are faster.

    Args:
        model: the network that is to be trained, or one of its size.
        schedule: that leaves something open.
        data: the data set whose first training rows are the batch.
        seed: of the drawn weights.
        num_gpus: that the stage asks for.
        device: the one that the answer is wanted for; it is in the cache key of this stage.

    Raises:
        InfrastructureError: this process has another device.
    """
    here = current_device(num_gpus)
    if here != device:
        raise InfrastructureError(
            f"the probe was asked for {device.gpu or device.machine.processor} and runs on "
            f"{here.gpu or here.machine.processor}; let the workers of one pool be alike, or tell them apart by "
            "resources.custom"
        )
    num_axes = len(data.input_shape)
    first = open_forms(schedule, num_axes, next(fitting_sizes(schedule)))
    if len(first) == 1 and "auto" not in (schedule.compile, schedule.micro_batch):
        return ProbedForms(device=device, chosen=first[0], costs={})
    # another measurement, or probe, on this host would be measured too
    with connect().host_locks.hold("timing"):
        rows = _batch(data, schedule.batch_size)
        network = _network(model, data, seed)
        time_forms = partial(_timed, network, rows, schedule, data.task, device_for(num_gpus))
        return _Probe(schedule, data.splits["train"].num_rows, time_forms).run(num_axes, device)


def _timed(
    network: bytes, rows: Arrays, schedule: Schedule, task: Task, device: str, forms: Sequence[TrainingForm]
) -> tuple[dict[TrainingForm, FormCost], dict[TrainingForm, str]]:
    return time_steps(network, rows, schedule, task, forms, device)


@dataclass
class _Probe:
    """The questions that were asked, and their answers."""

    schedule: Schedule
    num_rows: int
    """Of the train split."""
    time_forms: TimeSteps
    _costs: dict[TrainingForm, FormCost] = field(default_factory=dict, init=False)
    _refused: dict[TrainingForm, str] = field(default_factory=dict, init=False)

    def run(self, num_axes: int, device: Device) -> ProbedForms:
        """Ask all of them; the plainest form is chosen where none can be run, whose training then says why."""
        chosen = None
        for micro_batch in fitting_sizes(self.schedule):
            chosen = self._best(open_forms(self.schedule, num_axes, micro_batch))
            if chosen is not None:
                break
        if chosen is not None:
            chosen = self._best(compiled_forms(self.schedule, chosen)) or chosen
            chosen = self._best(halved_forms(self.schedule, chosen)) or chosen
        return ProbedForms(
            device=device,
            chosen=chosen or open_forms(self.schedule, num_axes, next(fitting_sizes(self.schedule)))[0],
            costs={form.label: cost for form, cost in self._costs.items()},
            refused={form.label: reason for form, reason in self._refused.items()},
        )

    def _best(self, forms: Sequence[TrainingForm]) -> TrainingForm | None:
        """Return the fastest form, if any can be run; a single one that was timed before is not timed again."""
        if len(forms) == 1 and forms[0] in self._costs:
            return forms[0]
        costs, refused = self.time_forms(forms)
        self._costs |= costs
        self._refused |= refused
        steps_of_epoch = math.ceil(self.num_rows / self.schedule.batch_size)
        return fastest(costs, self.schedule.epochs * steps_of_epoch) if costs else None


def _network(model: Architecture | ModelRef, data: DatasetRef, seed: int) -> bytes:
    from tasks.models.architecture import Network, completed

    if isinstance(model, ModelRef):
        return connect().artifacts.get(model.digest)
    architecture = completed(model, data.input_shape, data.num_outputs, data.vocab_size, data.special_tokens)
    return Network.create(architecture, seed).to_bytes()


def _batch(data: DatasetRef, batch_size: int) -> Arrays:
    """Return the first training rows, again from the start where there are fewer than a batch."""
    train = load_split(connect().artifacts, data, "train")
    positions = np.arange(min(batch_size, max(len(train.y), 2))) % len(train.y)
    return Arrays(x=train.x[positions], y=train.y[positions])
