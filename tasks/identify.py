"""Find out on which machine a target's models are measured."""

from tasks.contracts.evaluation import Machine
from tasks.contracts.value import Slug
from tasks.evaluation.machine import current_machine
from tasks.runtime.services import connect
from tasks.runtime.stage import effect_task, run_stage


@effect_task
def identify(target: Slug) -> Machine:
    """Return the fingerprint of the machine that measures for `target`: this one, unless stages run elsewhere."""
    if connect().settings.execution == "local":
        return current_machine()
    return run_stage(current_machine, target=target)
