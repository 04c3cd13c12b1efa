"""The fingerprint of what this process trains on."""

from tasks.contracts.device import Device
from tasks.evaluation.machine import current_machine


def current_device(num_gpus: float) -> Device:
    """Return what a stage that asks for `num_gpus` computes on here."""
    if num_gpus <= 0:
        return Device(machine=current_machine(), gpu=None)
    import torch

    if not torch.cuda.is_available():
        return Device(machine=current_machine(), gpu=None)
    major, minor = torch.cuda.get_device_capability()
    return Device(machine=current_machine(), gpu=f"{torch.cuda.get_device_name()} ({major}.{minor})")
