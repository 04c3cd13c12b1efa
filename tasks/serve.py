"""Prove that production can serve a deployable model."""

from tasks.contracts.data import DatasetRef
from tasks.contracts.evaluation import ServingTrial
from tasks.contracts.model import StageResult
from tasks.runtime.stage import run_stage, stage_task
from tasks.stages.serving import try_serving


@stage_task(sources=lambda inputs: ["tasks.stages.serving", "infra.gateway.__main__"])
def serve(deployed: StageResult, data: DatasetRef, command: tuple[str, ...]) -> ServingTrial:
    """Serve the model's file by the gateway that `command` starts, and check its answers."""
    return run_stage(try_serving, model=deployed.model, data=data, command=command)
