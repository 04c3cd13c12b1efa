"""Class labels as a source holds them, turned into class indices and names."""

from pathlib import Path

import numpy as np

from tasks.contracts.errors import DataError


def class_indices(labels: np.ndarray, class_names: tuple[str, ...], path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encode labels [N] as int64 indices [N], and return them with the names of the classes.

    Without `class_names`, the distinct labels are the classes: numbers in numeric order, text in
    alphabetical order. With them, integer labels are positions in the list and text labels are names.

    Raises:
        DataError: a label is fractional, out of range or not among the names.
    """
    labels = _whole_numbers(labels, path)
    is_text = not np.issubdtype(labels.dtype, np.integer)
    if not class_names:
        distinct, indices = np.unique(labels.astype(str) if is_text else labels, return_inverse=True)
        return indices.astype(np.int64), tuple(str(label) for label in distinct)
    if is_text:
        return _positions(labels.astype(str), class_names, path), class_names
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high >= len(class_names):
        raise DataError(
            f"{path}: labels run from {low} to {high}, but class_names names {len(class_names)} classes, "
            f"0 to {len(class_names) - 1}; name every class, or leave class_names out"
        )
    return labels.astype(np.int64), class_names


def _positions(labels: np.ndarray, class_names: tuple[str, ...], path: Path) -> np.ndarray:
    order = {name: index for index, name in enumerate(class_names)}
    unknown = sorted(set(labels.tolist()) - order.keys())
    if unknown:
        raise DataError(f"{path}: labels {unknown[:5]} are not among class_names {list(class_names)}; add or map them")
    return np.array([order[label] for label in labels.tolist()], dtype=np.int64)


def _whole_numbers(labels: np.ndarray, path: Path) -> np.ndarray:
    """Turn floats and booleans that stand for classes into integers."""
    if labels.dtype == np.bool_:
        return labels.astype(np.int64)
    if np.issubdtype(labels.dtype, np.floating):
        if not np.array_equal(labels, np.round(labels)):  # NaN differs from itself, so it is refused too
            raise DataError(
                f"{path}: the labels hold fractions or nulls, which are no classes; set task: regression, "
                "or mend the labels"
            )
        return labels.astype(np.int64)
    return labels
