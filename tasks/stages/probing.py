"""The work of choosing the form in which a network trains."""

import numpy as np

from tasks.contracts.data import DatasetRef
from tasks.contracts.device import Device, ProbedForms, TrainingForm
from tasks.contracts.errors import InfrastructureError
from tasks.contracts.model import Architecture, ModelRef
from tasks.evaluation.device import current_device
from tasks.runtime.services import connect
from tasks.stages.splits import load_split
from tasks.techniques.forms import fastest, open_forms
from tasks.techniques.probing import time_steps
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays
from tasks.techniques.training import device_for


def probe_forms(
    model: Architecture | ModelRef, schedule: Schedule, data: DatasetRef, seed: int, num_gpus: float, device: Device
) -> ProbedForms:
    """Time a step of the schedule's batch in each form that it allows, and choose.

    Args:
        model: the network that is to be trained, or one of its size.
        schedule: with an open precision or memory order.
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
    forms = open_forms(schedule, num_axes=len(data.input_shape))
    if len(forms) == 1:
        return ProbedForms(device=device, chosen=forms[0], step_ms={})
    # another measurement, or probe, on this host would be measured too
    with connect().host_locks.hold("timing"):
        rows = _batch(data, schedule.batch_size)
        step_ms, refused = time_steps(
            _network(model, data, seed), rows, schedule, data.task, forms, device_for(num_gpus)
        )
    return ProbedForms(
        device=device,
        chosen=fastest(step_ms) if step_ms else TrainingForm(),
        step_ms={form.label: round(milliseconds, 3) for form, milliseconds in step_ms.items()},
        refused={form.label: reason for form, reason in refused.items()},
    )


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
