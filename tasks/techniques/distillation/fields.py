"""The fields that the techniques of this family share."""

from typing import Annotated

from pydantic import Field

from tasks.contracts.model import Architecture

Student = Annotated[
    Architecture | None,
    Field(description="What to train from scratch; without it the incoming model itself goes on learning."),
]

Temperature = Annotated[
    float, Field(gt=0, le=100, description="Divides all logits in the soft term; 3 to 5 is usual. Classes only.")
]

LabelWeight = Annotated[
    float, Field(ge=0, le=1, description="Weight of the label loss; the teacher's term has the rest.")
]

TeacherFloor = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Least accuracy (R2 for regression) of the teacher on the calibration split. "
        "A teacher no better than a constant guess is refused in any case.",
    ),
]

TeacherCacheMib = Annotated[
    int,
    Field(
        ge=0,
        le=1_048_576,
        description="Most memory for the teacher's outputs, MiB. Where views repeat (no augmentation, or num_views) "
        "they are kept, so that the teacher sees each once; where they do not fit it runs on every batch. "
        "0 keeps none.",
    ),
]
