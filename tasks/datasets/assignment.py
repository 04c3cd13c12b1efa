"""Which split each row belongs to, kept beside the rows: so that rows keep their split when others are added.

The file is an npz with `hashes` uint8 [N, 16], the `row_hashes` in ascending order, and `splits` uint8 [N],
positions in `SPLIT_NAMES`. Equal assignments give equal bytes.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tasks.contracts.data import SPLIT_NAMES, SplitName
from tasks.contracts.errors import DataError
from tasks.datasets.splits import row_hashes

Assignment = Mapping[bytes, SplitName]
"""From the hash of a row to its split."""


def assignment_of(x: np.ndarray, rows: Mapping[SplitName, np.ndarray]) -> dict[bytes, SplitName]:
    """Return the assignment of rows `x` [N, ...] that were divided into `rows`, the row numbers of each split."""
    hashes = row_hashes(x)
    return {hashes[row]: name for name, chosen in rows.items() for row in chosen}


def pack_assignment(assignment: Assignment) -> bytes:
    """Serialise an assignment."""
    ordered = sorted(assignment)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        hashes=np.frombuffer(b"".join(ordered), np.uint8).reshape(len(ordered), -1),
        splits=np.array([SPLIT_NAMES.index(assignment[hashed]) for hashed in ordered], np.uint8),
    )
    return buffer.getvalue()


def read_assignment(path: Path) -> dict[bytes, SplitName]:
    """Read an assignment.

    Raises:
        DataError: the file is missing, damaged or no assignment.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            hashes, splits = arrays["hashes"], arrays["splits"]
        return {row.tobytes(): SPLIT_NAMES[split] for row, split in zip(hashes, splits.tolist(), strict=True)}
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read as an assignment of rows to splits ({error}); dataset.assigned takes the file that "
            "`stillhouse data publish` wrote beside the rows"
        ) from error
