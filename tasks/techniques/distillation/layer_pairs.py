"""Which layer of the student learns from which layer of the teacher.

Dimension legend: B rows of a batch, C channels, H height, W width, T positions of a sequence, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from tasks.contracts.errors import TechniqueError
from tasks.contracts.value import Value

Side = Literal["output", "input"]


class LayerPair(Value):
    """A layer of the teacher and the layer of the student that learns from it, by module path."""

    teacher: str = Field(min_length=1, description="Module path in the teacher, such as `stages.1`.")
    student: str = Field(min_length=1, description="Module path in the student.")
    side: Side = Field(
        default="output",
        description="Whether what the layers give or what they take is compared; what the last linear layer takes "
        "are the penultimate features.",
    )

    def __str__(self) -> str:
        suffix = " (input)" if self.side == "input" else ""
        return f"{self.teacher} -> {self.student}{suffix}"


@dataclass(frozen=True)
class Tap:
    """A tensor in a network: what the layer at `path` gives or takes."""

    path: str
    side: Side = "output"


@dataclass(frozen=True)
class LayerShape:
    """A layer that took part in a forward pass."""

    path: str
    shape: tuple[int, ...]
    """Of one row of its output."""
    is_linear: bool

    @property
    def positions(self) -> tuple[int, ...]:
        """(H, W) of maps [C, H, W], (T,) of sequences [T, F], () of features [F]."""
        return self.shape[1:] if len(self.shape) == 3 else self.shape[:-1]

    @property
    def is_map(self) -> bool:
        """Whether a row is [C, H, W] with more than one position."""
        return len(self.shape) == 3 and self.positions != (1, 1)

    @property
    def is_sequence(self) -> bool:
        """Whether a row is [T, F]."""
        return len(self.shape) == 2


def check_pairs(pairs: Sequence[LayerPair], teacher: Sequence[LayerShape], student: Sequence[LayerShape]) -> None:
    """Check that both networks have the layers of the pairs.

    Raises:
        TechniqueError: one is missing; the message lists those that there are.
    """
    for pair in pairs:
        for role, path, layers in (("teacher", pair.teacher, teacher), ("student", pair.student, student)):
            if all(layer.path != path for layer in layers):
                there = ", ".join(f"{layer.path} {list(layer.shape)}" for layer in layers)
                raise TechniqueError(
                    f"pairs: the {role} has no layer {path!r} that runs and gives a tensor; its layers and their "
                    f"shapes for one row are {there}"
                )


def map_pairs(teacher: Sequence[LayerShape], student: Sequence[LayerShape]) -> tuple[LayerPair, ...]:
    """Pair, for every resolution that both networks have, the last layers that give maps of it."""
    return _pairs([layer for layer in teacher if layer.is_map], [layer for layer in student if layer.is_map])


def sequence_pairs(teacher: Sequence[LayerShape], student: Sequence[LayerShape]) -> tuple[LayerPair, ...]:
    """Pair, for every length that both networks have, the last layers that give sequences of it."""
    return _pairs([layer for layer in teacher if layer.is_sequence], [layer for layer in student if layer.is_sequence])


def stage_pairs(teacher: Sequence[LayerShape], student: Sequence[LayerShape]) -> tuple[LayerPair, ...]:
    """Pair maps or, where none is shared, sequences or, where none is shared either, the penultimate features.

    Raises:
        TechniqueError: see `penultimate_pair`.
    """
    return map_pairs(teacher, student) or sequence_pairs(teacher, student) or (penultimate_pair(teacher, student),)


def penultimate_pair(teacher: Sequence[LayerShape], student: Sequence[LayerShape]) -> LayerPair:
    """Pair what the last linear layers take.

    Raises:
        TechniqueError: a network has no linear layer.
    """
    return LayerPair(teacher=_last_linear("teacher", teacher), student=_last_linear("student", student), side="input")


def _pairs(teacher: Sequence[LayerShape], student: Sequence[LayerShape]) -> tuple[LayerPair, ...]:
    """Pair the last layers of each number of positions that both have."""
    last_of_teacher = {layer.positions: layer.path for layer in teacher}
    last_of_student = {layer.positions: layer.path for layer in student}
    return tuple(
        LayerPair(teacher=path, student=last_of_student[positions])
        for positions, path in last_of_teacher.items()
        if positions in last_of_student
    )


def _last_linear(role: str, layers: Sequence[LayerShape]) -> str:
    found = [layer.path for layer in layers if layer.is_linear]
    if not found:
        there = ", ".join(layer.path for layer in layers)
        raise TechniqueError(
            f"the {role} has no linear layer whose input would be its penultimate features; name pairs of its layers: "
            f"{there}"
        )
    return found[-1]
