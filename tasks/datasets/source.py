"""What every data source is: a frozen spec that says where rows come from and how they are split and checked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, model_validator

from tasks.contracts.data import SPLIT_NAMES, SplitName, Task
from tasks.contracts.value import Slug, Value

if TYPE_CHECKING:
    import pandas as pd

_SUM_TOLERANCE = 1e-6

Unlabelled = Annotated[
    str | None,
    Field(min_length=1, description="A file of rows without labels, in the form of `path`; none: there are none."),
]


class SplitFractions(Value):
    """Shares of the rows; they sum to 1. A source with parts of its own shares out the rest only."""

    train: float = Field(default=0.6, gt=0, lt=1, description="Rows that weights are fitted to.")
    calibration: float = Field(default=0.1, gt=0, lt=1, description="Rows that quantization ranges are read from.")
    validation: float = Field(default=0.1, gt=0, lt=1, description="Rows that candidates are compared on.")
    test: float = Field(default=0.2, gt=0, lt=1, description="Rows that only the gate sees.")
    unlabelled: float = Field(
        default=0.0, ge=0, lt=1, description="Rows whose labels are dropped, for distillation from rows without labels."
    )

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitFractions:
        total = sum(self.by_name.values())
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(f"the split fractions sum to {total:g} instead of 1; change one of {self.by_name}")
        return self

    @property
    def by_name(self) -> dict[SplitName, float]:
        """The fractions above 0, in the order of `SPLIT_NAMES`."""
        return {name: share for name in SPLIT_NAMES if (share := getattr(self, name)) > 0}


class Expectations(Value):
    """What must hold of the rows before any work is spent on them."""

    min_rows: int = Field(default=100, ge=1, description="Smallest number of rows.")
    max_null_share: float = Field(
        default=0.05, ge=0, le=1, description="Largest share of nulls in a column as read, before they are handled."
    )
    value_min: float | None = Field(default=None, description="Smallest value that a numeric input may have.")
    value_max: float | None = Field(default=None, description="Largest value that a numeric input may have.")
    target_min: float | None = Field(default=None, description="Smallest regression target.")
    target_max: float | None = Field(default=None, description="Largest regression target.")
    min_class_share: float = Field(
        default=0.001, ge=0, le=0.5, description="Smallest share of all rows that the rarest class may have."
    )
    max_duplicate_share: float = Field(
        default=0.05, ge=0, le=1, description="Largest share of rows whose inputs repeat another row's."
    )

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> Expectations:
        for low, high in (("value_min", "value_max"), ("target_min", "target_max")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"{low} {least:g} is above {high} {most:g}; exchange them")
        return self


@dataclass(frozen=True)
class RawTable:
    """All rows of a source, as the model will see them, not yet split.

    Attributes:
        x: float32 [N, *input_shape], exactly the model's input; or str objects [N], texts, which become
            the input once there is a tokenizer.
        y: int64 [N] class indices, or float32 [N] regression targets.
        class_names: names in the order of the indices; empty for regression.
        paths: the files that were read.
        test_rows: bool [N], the rows of the test split where the source fixes it; else None.
        validation_rows: bool [N], likewise of the validation split.
        unlabelled: further rows without labels, of the same kind as `x`; else None.
        frame: a tabular source as read, [rows, features and target], before nulls were handled; else None.
        target: name of the target column of `frame`.
        make_tokenizer: for texts, from those of the train split to the tokenizer; else None.
    """

    x: np.ndarray
    y: np.ndarray
    task: Task
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    test_rows: np.ndarray | None = None
    frame: pd.DataFrame | None = None
    target: str | None = None
    validation_rows: np.ndarray | None = None
    unlabelled: np.ndarray | None = None
    make_tokenizer: Callable[[Sequence[str]], bytes] | None = None

    @property
    def is_text(self) -> bool:
        """Whether `x` holds texts."""
        return self.make_tokenizer is not None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row of `x`, without the batch axis."""
        return tuple(int(size) for size in self.x.shape[1:])


class SourceSpec(Value):
    """Base of all sources. A subclass sets `source: Literal["..."] = "..."`, `location` and `load`."""

    source: str
    name: Slug
    split: SplitFractions = SplitFractions()
    license: str = Field(default="", description="Licence of the rows, for the model card.")
    assigned: str | None = Field(
        default=None,
        min_length=1,
        description="A file that says which split each row belongs to, as `stillhouse data publish` writes it; none: "
        "rows are dealt by `split`.",
    )
    expect: Expectations = Expectations()

    @abstractmethod
    def location(self, project_root: Path) -> Path:
        """Return the file or folder that holds the rows; a relative one lies below `project_root`."""

    def other_files(self, project_root: Path) -> tuple[Path, ...]:
        """Return the further files that the data set is made from; they count in its revision."""
        return ()

    @abstractmethod
    def load(self, project_root: Path) -> RawTable:
        """Read all rows.

        Raises:
            DataError: the file is missing, damaged or does not hold what the spec says; the message names it.
        """


class ShippedSource(SourceSpec):
    """A source whose rows come with Stillhouse's dependencies, so that `data/` can be rebuilt without a network."""

    @abstractmethod
    def materialise(self, folder: Path) -> None:
        """Write the rows below `folder`, which stands for `data/`; equal bytes every time and everywhere."""
