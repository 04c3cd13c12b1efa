"""Find out on which device a stage trains."""

from tasks.contracts.device import Device
from tasks.contracts.resources import Resources
from tasks.evaluation.device import current_device
from tasks.runtime.stage import effect_task, run_stage


@effect_task
def detect(resources: Resources) -> Device:
    """Return the fingerprint of what a stage with these resources trains on."""
    return run_stage(current_device, resources=resources, num_gpus=resources.num_gpus)
