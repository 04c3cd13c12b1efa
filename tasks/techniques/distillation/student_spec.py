"""What the techniques share that train a student: its architecture, its schedule, and what they say of themselves."""

from typing import ClassVar

from pydantic import Field

from tasks.contracts.model import ModelFormat
from tasks.techniques.distillation.fields import Student
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import ALL_INVARIANTS, Invariant, TechniqueSpec


class StudentSpec(TechniqueSpec):
    """Trains `student` from scratch, or the incoming model on, with all that it has become."""

    takes: ClassVar[ModelFormat] = "torch"
    gives: ClassVar[ModelFormat] = "torch"
    keeps: ClassVar[frozenset[Invariant]] = ALL_INVARIANTS

    student: Student = None
    schedule: Schedule = Field(default=Schedule(), description="How long and how fast the student trains.")

    @property
    def planned_epochs(self) -> int:
        """See `TechniqueSpec.planned_epochs`."""
        return self.schedule.epochs

    @property
    def starts_over(self) -> bool:
        """See `TechniqueSpec.starts_over`."""
        return self.student is not None
