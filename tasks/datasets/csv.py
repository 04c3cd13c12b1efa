"""Tabular rows in a CSV file: numeric columns as they are, categorical columns one-hot over a recorded vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from tasks.contracts.data import Task
from tasks.contracts.errors import DataError
from tasks.datasets.labels import class_indices
from tasks.datasets.source import RawTable, SourceSpec, Unlabelled

if TYPE_CHECKING:
    import pandas as pd

_MAX_SUGGESTED_CATEGORIES = 50


class Csv(SourceSpec):
    """Rows from a CSV file with a header; `x` is float32 [N, F], numeric columns first, then the one-hot ones.

    Nothing is fitted to the rows: vocabulary, fill value and scale stand in the plan, so that a client
    can encode one row for the served model without knowing the others.
    """

    source: Literal["csv"] = "csv"
    path: str = Field(min_length=1, description="The CSV file; a relative path starts at the project's root.")
    unlabelled: Unlabelled = None
    task: Task
    target: str = Field(description="Column that is predicted.")
    exclude: tuple[str, ...] = Field(default=(), description="Columns that are no inputs, such as row numbers.")
    categorical: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Column -> its vocabulary, in the order of the one-hot inputs."
    )
    missing: Literal["error", "drop", "fill"] = Field(
        default="error", description="Rows with nulls: refuse the file, drop the row, or fill numbers with fill_value."
    )
    fill_value: float = Field(default=0.0, description="What `missing: fill` writes into numeric inputs.")
    target_scale: float = Field(default=1.0, gt=0, description="Regression targets are multiplied by it.")
    class_names: tuple[str, ...] = Field(default=(), description="Names of the classes; none: the distinct labels.")

    @model_validator(mode="after")
    def _columns_have_one_role(self) -> Csv:
        roles = [self.target, *self.exclude, *self.categorical]
        repeated = sorted({column for column in roles if roles.count(column) > 1})
        if repeated:
            raise ValueError(f"columns {repeated} have more than one role among target, exclude and categorical")
        return self

    def location(self, project_root: Path) -> Path:
        """See `SourceSpec.location`."""
        return project_root / Path(self.path).expanduser()

    def other_files(self, project_root: Path) -> tuple[Path, ...]:
        """See `SourceSpec.other_files`."""
        return () if self.unlabelled is None else (project_root / Path(self.unlabelled).expanduser(),)

    def load(self, project_root: Path) -> RawTable:
        """See `SourceSpec.load`."""
        path = self.location(project_root)
        frame = self._selected(_read(path, tuple(self.categorical)), path)
        handled = self._without_nulls(frame, path)
        y, class_names = self._targets(handled, path)
        return RawTable(
            x=self._inputs(handled, path),
            y=y,
            task=self.task,
            class_names=class_names,
            paths=(path, *self.other_files(project_root)),
            frame=frame,
            target=self.target,
            unlabelled=self._unlabelled([str(column) for column in frame.columns], project_root),
        )

    def _unlabelled(self, columns: list[str], project_root: Path) -> np.ndarray | None:
        """Read the rows without labels; the columns may stand in another order, and there may be more of them."""
        inputs = [column for column in columns if column != self.target]
        for path in self.other_files(project_root):
            table = _read(path, tuple(self.categorical))
            absent = [column for column in inputs if column not in table.columns]
            if absent:
                raise DataError(f"{path} has no column {absent}; its header is {list(table.columns)}")
            for column in self._numeric(table[inputs]):
                self._require_numbers(table[column], path)
            return self._inputs(self._without_nulls(table[inputs], path), path)
        return None

    def _selected(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """Return the input columns and the target, checked to be there and of their kind."""
        named = [self.target, *self.exclude, *self.categorical]
        absent = [column for column in named if column not in table.columns]
        if absent:
            raise DataError(f"{path} has no column {absent}; its header is {list(table.columns)}")
        frame = table.drop(columns=list(self.exclude))
        if len(frame) == 0 or len(frame.columns) < 2:
            raise DataError(
                f"{path} leaves {len(frame)} rows and {len(frame.columns) - 1} inputs; both must be above 0"
            )
        for column in self._numeric(frame):
            self._require_numbers(frame[column], path)
        return frame

    def _numeric(self, frame: pd.DataFrame) -> list[str]:
        return [column for column in frame.columns if column != self.target and column not in self.categorical]

    @staticmethod
    def _require_numbers(values: pd.Series, path: Path) -> None:
        from pandas.api.types import is_bool_dtype, is_numeric_dtype

        if is_numeric_dtype(values) or is_bool_dtype(values):
            return
        distinct = sorted({str(value) for value in values.dropna()})
        vocabulary = str(distinct) if len(distinct) <= _MAX_SUGGESTED_CATEGORIES else "[...]"
        raise DataError(
            f"{path}: column {values.name!r} holds text ({len(distinct)} distinct values); add "
            f"`categorical: {{{values.name}: {vocabulary}}}` or `exclude: [{values.name}]`"
        )

    def _without_nulls(self, frame: pd.DataFrame, path: Path) -> pd.DataFrame:
        nulls = {str(column): int(count) for column, count in frame.isna().sum().items() if count}
        if not nulls:
            return frame
        if self.missing == "drop":
            kept = frame.dropna()
            if len(kept) == 0:
                raise DataError(f"{path}: every row has a null ({nulls} by column), so none is left to use")
            return kept
        if self.missing == "fill":
            frame = frame.fillna(dict.fromkeys(self._numeric(frame), self.fill_value))
            nulls = {column: count for column, count in nulls.items() if frame[column].isna().any()}
        if nulls:
            remedy = "drop" if self.missing == "fill" else "drop or missing: fill"
            raise DataError(
                f"{path}: columns with nulls (column: rows) {nulls}; mend the file, or set missing: {remedy}"
            )
        return frame

    def _inputs(self, frame: pd.DataFrame, path: Path) -> np.ndarray:
        """Return float32 [N, F]."""
        blocks = [frame[self._numeric(frame)].to_numpy(dtype=np.float32)]
        for column, vocabulary in self.categorical.items():
            texts = frame[column].astype(str).to_numpy(dtype=str)
            unknown = sorted(set(texts.tolist()) - set(vocabulary))
            if unknown:
                raise DataError(
                    f"{path}: column {column!r} holds {unknown[:5]}, which its vocabulary {list(vocabulary)} lacks; "
                    "add the value there, or drop these rows"
                )
            blocks.append((texts[:, None] == np.array(vocabulary, dtype=str)).astype(np.float32))
        return np.ascontiguousarray(np.concatenate(blocks, axis=1))

    def _targets(self, frame: pd.DataFrame, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
        values = frame[self.target]
        if self.task == "classification":
            return class_indices(values.to_numpy(), self.class_names, path)
        self._require_numbers(values, path)
        return values.to_numpy(dtype=np.float32) * np.float32(self.target_scale), ()


def _read(path: Path, texts: tuple[str, ...]) -> pd.DataFrame:
    """Read the file; the columns `texts` are kept letter for letter, so that 1 and 1.0 are different categories."""
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=dict.fromkeys(texts, "str"))
    except (OSError, ValueError, OverflowError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(
            f"{path} cannot be read as CSV ({error}); get a whole, UTF-8 encoded copy of the file"
        ) from error
