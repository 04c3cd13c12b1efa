"""Arrays in a NumPy `.npz` file: one pair `x`, `y`, or a training pair and a test pair (Fashion-MNIST's shape)."""

import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from tasks.contracts.data import Task
from tasks.contracts.errors import DataError
from tasks.datasets.labels import class_indices
from tasks.datasets.source import RawTable, SourceSpec, Unlabelled


class Npz(SourceSpec):
    """Rows from an `.npz` file; images may be [N, H, W], [N, C, H, W] or, with `channels_last`, [N, H, W, C]."""

    source: Literal["npz"] = "npz"
    path: str = Field(min_length=1, description="The .npz file; a relative path starts at the project's root.")
    task: Task = "classification"
    x: str = Field(default="x", description="Array of the inputs.")
    y: str = Field(default="y", description="Array of the labels or targets.")
    x_test: str | None = Field(default=None, description="Array of inputs that are the test split as they stand.")
    y_test: str | None = Field(default=None, description="Array of labels of `x_test`.")
    unlabelled: Unlabelled = None
    scale: float = Field(default=1.0, gt=0, description="Inputs are multiplied by it; 0.00392156862745098 is 1/255.")
    channels_last: bool = Field(default=False, description="Images are [N, H, W, C] and are turned into [N, C, H, W].")
    class_names: tuple[str, ...] = Field(default=(), description="Names of the classes 0, 1, ...; none: the labels.")

    @model_validator(mode="after")
    def _test_arrays_come_in_pairs(self) -> "Npz":
        if (self.x_test is None) != (self.y_test is None):
            raise ValueError("x_test and y_test come together; give both or neither")
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
        arrays = self._read(path, [name for name in (self.x, self.y, self.x_test, self.y_test) if name is not None])
        inputs, targets = self._pair(arrays, self.x, self.y, path)
        test_rows = None
        if self.x_test is not None and self.y_test is not None:
            test_inputs, test_targets = self._pair(arrays, self.x_test, self.y_test, path)
            test_rows = np.arange(len(inputs) + len(test_inputs)) >= len(inputs)
            inputs = _joined(inputs, test_inputs, f"{self.x} and {self.x_test}", path)
            targets = _joined(targets, test_targets, f"{self.y} and {self.y_test}", path)
        y, class_names = self._encoded(targets, path)
        x = self._scaled(inputs, path)
        return RawTable(
            x=x,
            y=y,
            task=self.task,
            class_names=class_names,
            paths=(path, *self.other_files(project_root)),
            test_rows=test_rows,
            unlabelled=self._unlabelled(x.shape[1:], project_root),
        )

    def _unlabelled(self, row_shape: tuple[int, ...], project_root: Path) -> np.ndarray | None:
        """Read the rows without labels, scaled as the others."""
        for path in self.other_files(project_root):
            rows = self._scaled(self._read(path, [self.x])[self.x], path)
            if rows.shape[1:] != row_shape or not np.isfinite(rows).all():
                raise DataError(
                    f"{path}: array {self.x!r} holds rows of shape {rows.shape[1:]}; they must be finite numbers of "
                    f"the shape {row_shape} that the labelled rows have"
                )
            return rows
        return None

    @staticmethod
    def _read(path: Path, wanted: list[str]) -> dict[str, np.ndarray]:
        try:
            with path.open("rb") as file:
                archive = np.load(file, allow_pickle=False)
                if not isinstance(archive, np.lib.npyio.NpzFile):
                    raise DataError(f"{path} is a single array, not an .npz archive; write it with numpy.savez(x=, y=)")
                missing = [name for name in wanted if name not in archive.files]
                if missing:
                    raise DataError(
                        f"{path} has no array {missing}; it holds {archive.files}: set x and y (and x_test, y_test)"
                    )
                return {name: archive[name] for name in wanted}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path} cannot be read as .npz ({error}); get a whole copy of the file") from error

    @staticmethod
    def _pair(arrays: dict[str, np.ndarray], x: str, y: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = arrays[x], arrays[y]
        if targets.ndim == 2 and targets.shape[1] == 1:
            targets = targets[:, 0]
        if inputs.ndim < 2 or targets.ndim != 1 or len(inputs) != len(targets) or len(inputs) == 0:
            raise DataError(
                f"{path}: array {x!r} has shape {inputs.shape} and {y!r} has shape {targets.shape}; "
                "they must be [N, ...] and [N] with the same N above 0"
            )
        return inputs, targets

    def _scaled(self, inputs: np.ndarray, path: Path) -> np.ndarray:
        """Return float32 [N, ...], with a channel axis for images."""
        if not (np.issubdtype(inputs.dtype, np.number) or inputs.dtype == np.bool_) or np.iscomplexobj(inputs):
            raise DataError(f"{path}: array {self.x!r} has dtype {inputs.dtype}; inputs must be real numbers")
        if self.channels_last:
            if inputs.ndim != 4:
                raise DataError(f"{path}: channels_last needs [N, H, W, C], but {self.x!r} has shape {inputs.shape}")
            inputs = inputs.transpose(0, 3, 1, 2)
        if inputs.ndim == 3:
            inputs = inputs[:, None]
        return np.ascontiguousarray(inputs, dtype=np.float32) * np.float32(self.scale)

    def _encoded(self, targets: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
        if self.task == "classification":
            return class_indices(targets, self.class_names, path)
        if not np.issubdtype(targets.dtype, np.number):
            raise DataError(f"{path}: array {self.y!r} has dtype {targets.dtype}; regression targets must be numbers")
        return targets.astype(np.float32), ()


def _joined(first: np.ndarray, second: np.ndarray, names: str, path: Path) -> np.ndarray:
    if first.shape[1:] != second.shape[1:]:
        raise DataError(
            f"{path}: arrays {names} differ in the shape of a row: {first.shape[1:]} and {second.shape[1:]}"
        )
    return np.concatenate([first, second])
