"""Stratified, seeded splits in which rows with equal inputs stay together, and the check that none leaked.

Rows are put in order by a keyed hash of their content, not by a random stream: the splits depend on
neither the order of the file nor the version of NumPy, and most rows keep their split when others
are added. N is the number of rows.
"""

import hashlib
import io
import unicodedata
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from tasks.contracts.data import SPLIT_NAMES, SplitName, Task
from tasks.contracts.errors import DataError
from tasks.datasets.source import RawTable, SplitFractions

_MAX_TARGET_BINS = 10
_ROWS_PER_TARGET_BIN = 20
_QUARTILE_NAMES = ("q1", "q2", "q3", "q4")


def row_hashes(x: np.ndarray) -> list[bytes]:
    """Return a 16-byte BLAKE2b hash of each row of `x` [N, ...]: of its bytes, or of the `text_key` of a text."""
    if x.dtype == object:
        return [hashlib.blake2b(text_key(text).encode(), digest_size=16).digest() for text in x]
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in np.ascontiguousarray(x)]


def text_key(text: str) -> str:
    """Return what makes two texts the same row: the letters, whatever their case, width and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def split_rows(
    table: RawTable, fractions: SplitFractions, seed: int, assigned: Mapping[bytes, SplitName] | None = None
) -> dict[SplitName, np.ndarray]:
    """Divide the rows of `table`: int64 row numbers per split, disjoint, exhaustive and in ascending order.

    Per class (or decile of a regression target) each split's count is within the size of the largest
    group of equal rows of its exact share. Where the source fixes the test or the validation rows they
    are taken as they stand, and the other splits share out the rest in proportion.

    With `assigned`, a split for each `row_hashes`, every row goes where that says, whatever else is said.

    Raises:
        DataError: `assigned` does not name a row.
    """
    if assigned is not None:
        return _assigned_rows(row_hashes(table.x), assigned)
    shares = fractions.by_name
    pool = np.arange(len(table.y))
    given: dict[SplitName, np.ndarray | None] = {"validation": table.validation_rows, "test": table.test_rows}
    fixed = {name: np.flatnonzero(chosen) for name, chosen in given.items() if chosen is not None}
    for name, chosen in fixed.items():
        pool = np.setdiff1d(pool, chosen, assume_unique=True)
        del shares[name]
    groups = _groups_by_stratum(row_hashes(table.x[pool]), _strata(table.y[pool], table.task))
    rows: dict[SplitName, list[int]] = {name: [] for name in shares}
    for stratum in sorted(groups):
        _deal(groups[stratum], shares, seed, rows)
    dealt = {name: pool[np.array(sorted(chosen), dtype=np.int64)] for name, chosen in rows.items()}
    divided = dealt | fixed
    return {name: divided[name] for name in SPLIT_NAMES if name in divided}


def _assigned_rows(hashes: list[bytes], assigned: Mapping[bytes, SplitName]) -> dict[SplitName, np.ndarray]:
    if unknown := sum(hashed not in assigned for hashed in hashes):
        raise DataError(
            f"{unknown} of {len(hashes)} rows are not in the file that dataset.assigned names, which belongs to other "
            "rows; take the two files of one `stillhouse data publish`"
        )
    names = np.array([assigned[hashed] for hashed in hashes])
    return {name: chosen for name in SPLIT_NAMES if len(chosen := np.flatnonzero(names == name))}


def check_leakage(splits: Mapping[SplitName, np.ndarray]) -> None:
    """Check that no row of `x` stands in two splits; `splits` holds each split's inputs [N, ...].

    Raises:
        DataError: rows with equal bytes stand in two splits; the message names the splits and the counts.
    """
    hashes = {name: row_hashes(x) for name, x in splits.items()}
    leaks = []
    for first, second in combinations(hashes, 2):
        seen = set(hashes[first])
        count = sum(hashed in seen for hashed in hashes[second])
        if count:
            leaks.append(f"{count} rows of {second} are also in {first}")
    if leaks:
        raise DataError(
            f"rows leak between splits, so no score could be trusted: {'; '.join(leaks)}. Remove them from one side, "
            "or give the source a single x/y pair: its splits keep equal rows together"
        )


def composition(y: np.ndarray, table: RawTable) -> dict[str, int]:
    """Count the rows of one split, with targets `y`, by class name, or by quartile of all rows' targets."""
    if table.task == "classification":
        counts = np.bincount(y, minlength=len(table.class_names))
        return dict(zip(table.class_names, counts.tolist(), strict=True))
    edges = np.quantile(table.y, [0.25, 0.5, 0.75])
    counts = np.bincount(np.searchsorted(edges, y, side="left"), minlength=len(_QUARTILE_NAMES))
    return dict(zip(_QUARTILE_NAMES, counts.tolist(), strict=True))


def check_composition(name: str, task: Task, compositions: Mapping[SplitName, Mapping[str, int]]) -> None:
    """Check that every split has rows and, for classification, every class.

    Raises:
        DataError: one has not; the message names the split and the classes.
    """
    for split, counts in compositions.items():
        if not any(counts.values()):
            raise DataError(
                f"data set {name}: split {split} has no rows; raise its share (split.{split}) or bring more rows"
            )
        absent = [label for label, count in counts.items() if count == 0]
        if absent and task == "classification":
            raise DataError(
                f"data set {name}: split {split} has no row of class {', '.join(absent)}; raise its share "
                f"(split.{split}), bring more rows of that class, or merge rare classes"
            )


def pack_split(x: np.ndarray, y: np.ndarray) -> bytes:
    """Serialise one split as an uncompressed npz with arrays `x` and `y`; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, x=np.ascontiguousarray(x), y=np.ascontiguousarray(y))
    return buffer.getvalue()


def _strata(y: np.ndarray, task: Task) -> np.ndarray:
    """Return the stratum [N] of each row: its class, or the quantile bin of its target."""
    if task == "classification":
        return y
    num_bins = max(1, min(_MAX_TARGET_BINS, len(y) // _ROWS_PER_TARGET_BIN))
    edges = np.unique(np.quantile(y, np.arange(1, num_bins) / num_bins)) if num_bins > 1 else np.empty(0)
    return np.searchsorted(edges, y, side="left")


def _groups_by_stratum(hashes: list[bytes], strata: np.ndarray) -> dict[int, dict[bytes, list[int]]]:
    """Gather equal rows; a group whose rows disagree on the stratum goes to the lowest."""
    members: dict[bytes, list[int]] = {}
    for row, hashed in enumerate(hashes):
        members.setdefault(hashed, []).append(row)
    grouped: dict[int, dict[bytes, list[int]]] = {}
    for hashed, rows in members.items():
        grouped.setdefault(int(strata[rows].min()), {})[hashed] = rows
    return grouped


def _deal(
    groups: dict[bytes, list[int]], shares: Mapping[SplitName, float], seed: int, rows: dict[SplitName, list[int]]
) -> None:
    """Deal the groups of one stratum to the splits: a group falls where the middle of its rows falls."""
    key = seed.to_bytes(8, "big", signed=True)
    ordered = sorted(groups, key=lambda hashed: hashlib.blake2b(hashed, key=key, digest_size=16).digest())
    sizes = np.array([len(groups[hashed]) for hashed in ordered])
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    bounds = np.cumsum(list(shares.values())) / sum(shares.values())
    names = list(shares)
    for hashed, position in zip(ordered, np.searchsorted(bounds[:-1], middles, side="right"), strict=True):
        rows[names[position]].extend(groups[hashed])
