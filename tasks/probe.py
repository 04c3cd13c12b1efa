"""Choose the form in which a network trains, on the device that it will train on."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.device import Device, ProbedForms
from tasks.contracts.model import Architecture, ModelRef
from tasks.contracts.resources import Resources
from tasks.runtime.recipes import recipe_modules
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.probing import probe_forms
from tasks.techniques.schedule import Schedule


@stage_task(
    sources=lambda inputs: [
        "tasks.stages.probing",
        *(recipe_modules(inputs["model"]) if isinstance(inputs["model"], ModelRef) else []),
    ],
    ignore=("resources",),  # `device` says more
)
def probe(
    model: Architecture | ModelRef,
    schedule: Schedule,
    data: DatasetRef,
    seed: int,
    resources: Resources,
    num_threads: int,
    device: Device,
) -> ProbedForms:
    """Time the forms that `schedule` leaves open; cached for a network, a batch and a device."""
    return run_stage(
        probe_forms,
        resources=resources,
        num_threads=num_threads,
        model=model,
        schedule=schedule,
        data=data,
        seed=seed,
        num_gpus=resources.num_gpus,
        device=device,
    )
