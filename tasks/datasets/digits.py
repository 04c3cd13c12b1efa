"""The handwritten digits that scikit-learn ships: 1,797 real scans of 8 x 8 pixels in 17 shades, 10 classes.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49; scikit-learn holds its test part.
"""

import io
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from tasks.contracts.errors import DataError
from tasks.contracts.value import Slug
from tasks.datasets.source import Expectations, RawTable, ShippedSource

_FOLDER = "digits"
_IMAGES_FILE = "images.npy"
_LABELS_FILE = "labels.npy"
_README_FILE = "README.txt"
_README = """Handwritten digits: 1797 scans of 8 x 8 pixels, shades 0 to 16, ten classes.

images.npy  uint8 [1797, 8, 8]
labels.npy  uint8 [1797]

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49 (CC BY 4.0), as shipped with scikit-learn.
"""
_MAX_SHADE = 16


class Digits(ShippedSource):
    """Handwritten digits; `x` is float32 [N, 1, 8, 8] in [0, 1] (shade / 16)."""

    source: Literal["digits"] = "digits"
    name: Slug = "digits"
    license: str = "CC-BY-4.0"
    expect: Expectations = Field(
        default=Expectations(min_rows=1797, value_min=0, value_max=1, min_class_share=0.09, max_duplicate_share=0)
    )

    def location(self, project_root: Path) -> Path:
        """See `SourceSpec.location`."""
        return project_root / "data" / _FOLDER

    def materialise(self, folder: Path) -> None:
        """See `ShippedSource.materialise`. Plain `.npy`, whose bytes depend on nothing but the arrays."""
        from sklearn.datasets import load_digits

        shipped = load_digits()
        target = folder / _FOLDER
        target.mkdir(parents=True, exist_ok=True)
        (target / _IMAGES_FILE).write_bytes(_npy(shipped.images))
        (target / _LABELS_FILE).write_bytes(_npy(shipped.target))
        (target / _README_FILE).write_text(_README, encoding="utf-8", newline="\n")

    def load(self, project_root: Path) -> RawTable:
        """See `SourceSpec.load`."""
        folder = self.location(project_root)
        images_path, labels_path = folder / _IMAGES_FILE, folder / _LABELS_FILE
        images, labels = _read(images_path), _read(labels_path)
        if images.ndim != 3 or images.shape[0] != labels.shape[0]:
            raise DataError(
                f"{images_path} has shape {images.shape} and {labels_path.name} {labels.shape}; "
                "run `stillhouse data pull --force` to get the tracked files back"
            )
        return RawTable(
            x=(images[:, None] / np.float32(_MAX_SHADE)).astype(np.float32),
            y=labels.astype(np.int64),
            task="classification",
            class_names=tuple(str(digit) for digit in range(10)),
            paths=(images_path, labels_path),
        )


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, dtype=np.uint8), allow_pickle=False)
    return buffer.getvalue()


def _read(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); run `stillhouse data pull --force` to get the tracked file back"
        ) from error
    return array
