"""The student: built from scratch or the incoming model, and what is worth saying of its size."""

from typing import TYPE_CHECKING

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture
from tasks.techniques.distillation.teacher import Teacher
from tasks.techniques.technique import StageContext

if TYPE_CHECKING:
    from torch import nn

    from tasks.models.architecture import Network

_SMALL_STUDENT, _LARGE_STUDENT = 0.10, 0.50
"""Shares of the teacher's parameters outside which practice warns."""


def make_student(student: Architecture | None, model: bytes, context: StageContext) -> "Network":
    """Build the student, or take the incoming model, and check that its outputs can be compared.

    Args:
        student: what to build; None takes `model`.
        model: the incoming torch artifact, unused if `student` is given.
        context: gives the seed and the shapes.

    Raises:
        TechniqueError: a row's outputs are not [num_outputs].
    """
    import torch

    from tasks.models.architecture import Network, completed
    from tasks.techniques.inference import outputs_of

    if student is None:
        network = Network.from_bytes(model)
    else:
        shapes = (context.input_shape, context.num_outputs, context.vocab_size, context.special_tokens)
        network = Network.create(completed(student, *shapes), context.seed)
    example = torch.from_numpy(context.load_split("calibration").x[:2])
    shape = tuple(outputs_of(network.module, example, 2).shape[1:])
    if shape != (context.num_outputs,):
        raise TechniqueError(
            f"the student {network.architecture.factory!r} gives outputs of shape {list(shape)} for each row, "
            f"but the teacher's have shape [{context.num_outputs}]; give it {context.num_outputs} outputs"
        )
    return network


def student_facts(teacher: Teacher, student: "nn.Module", context: StageContext) -> dict[str, float | int | str]:
    """Return what is worth showing, with a warning when the student's size is out of the useful range."""
    num_student = sum(parameter.numel() for parameter in student.parameters())
    share = num_student / teacher.num_parameters
    facts: dict[str, float | int | str] = {
        "teacher_accuracy" if context.task == "classification" else "teacher_r2": teacher.score,
        "teacher_parameters": teacher.num_parameters,
        "student_parameters": num_student,
        "student_share": share,
    }
    if share < _SMALL_STUDENT:
        facts["warning"] = (
            f"the student has {share:.1%} of the teacher's parameters; below 10 % accuracy often suffers: "
            "teach it inner features too (distill_features)"
        )
    elif share > _LARGE_STUDENT:
        facts["warning"] = f"the student has {share:.0%} of the teacher's parameters; above 50 % little is gained"
    return facts
