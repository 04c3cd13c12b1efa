"""Files of labelled texts: CSV, JSON lines, and JSON that holds parts as lists of [text, label]."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts.errors import DataError

_MAX_NAMED = 5


@dataclass(frozen=True)
class TextRows:
    """The rows of a file in its order."""

    texts: list[str]
    labels: list[str | int]
    parts: list[str] | None
    """The part that each row belongs to; None where the file has no parts."""


def read_labelled(path: Path, text: str, label: str, part: str | None) -> TextRows:
    """Read texts with labels.

    Args:
        path: `.csv` with a header, `.jsonl` with an object a line, or `.json` that maps the names of parts to
            lists of [text, label].
        text: Column or key of the text; a `.json` file has none.
        label: Column or key of the label.
        part: Column or key of the part that a row belongs to.

    Raises:
        DataError: the file is missing or damaged, lacks a column, or a row has no text or label.
    """
    if path.suffix == ".json":
        return _read_parts(path)
    columns = [text, label, *([part] if part else [])]
    records = _records(path, columns)
    return TextRows(
        _texts([record[text] for record in records], path),
        _labels([record[label] for record in records], path),
        [str(record[part]) for record in records] if part else None,
    )


def read_unlabelled(path: Path, text: str) -> list[str]:
    """Read texts alone: a line each of a `.txt` file, or the column `text` of a `.csv` or `.jsonl` file.

    Raises:
        DataError: see `read_labelled`.
    """
    if path.suffix == ".txt":
        return [line for line in _content(path).splitlines() if line.strip()]
    return _texts([record[text] for record in _records(path, [text])], path)


def _read_parts(path: Path) -> TextRows:
    document = _parsed(_content(path), f"{path}")
    if not isinstance(document, dict) or not all(isinstance(rows, list) for rows in document.values()):
        raise DataError(f"{path} must map the names of parts to lists of [text, label]; write other shapes as .jsonl")
    rows = [(name, row) for name, part in document.items() for row in part]
    odd = [f"{name}: {row!r}" for name, row in rows if not isinstance(row, list) or len(row) != 2]
    if odd:
        raise DataError(f"{path}: {len(odd)} rows are not [text, label], such as {odd[0][:200]}")
    texts, labels = _texts([row[0] for _, row in rows], path), _labels([row[1] for _, row in rows], path)
    return TextRows(texts, labels, [name for name, _ in rows])


def _records(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    """Read a CSV or JSON-lines file and keep the named columns."""
    readers = {".csv": _read_csv, ".jsonl": _read_lines, ".ndjson": _read_lines}
    if path.suffix not in readers:
        raise DataError(f"{path} ends in {path.suffix!r}; texts are read from {', '.join([*readers, '.json'])} files")
    return readers[path.suffix](path, columns)


def _read_csv(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    import pandas as pd

    try:
        # "NA" and "null" are words here, not missing values
        frame = pd.read_csv(path, dtype={columns[0]: "str"}, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(
            f"{path} cannot be read as CSV ({error}); get a whole, UTF-8 encoded copy of the file"
        ) from error
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise DataError(f"{path} has no column {absent}; its header is {list(frame.columns)}: set text and label")
    return [dict(zip(columns, row, strict=True)) for row in frame[columns].itertuples(index=False, name=None)]


def _read_lines(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(_content(path).splitlines(), start=1):
        if not line.strip():
            continue
        record = _parsed(line, f"{path}, line {number},")
        if not isinstance(record, dict) or not set(columns) <= record.keys():
            raise DataError(f"{path}, line {number}, is no object with the keys {columns}; set text and label")
        records.append({column: record[column] for column in columns})
    return records


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); get a whole, UTF-8 encoded copy of the file") from error


def _parsed(content: str, place: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(f"{place} is not valid JSON ({error}); get a whole copy of the file") from error


def _texts(values: list[Any], path: Path) -> list[str]:
    odd = [repr(value) for value in values if not isinstance(value, str)]
    if odd:
        raise DataError(f"{path}: {len(odd)} texts are no text, such as {', '.join(odd[:_MAX_NAMED])}; mend these rows")
    return values


def _labels(values: list[Any], path: Path) -> list[str | int]:
    odd = [
        repr(value)
        for value in values
        if isinstance(value, bool)
        or not isinstance(value, (str, int))
        or (isinstance(value, str) and not value.strip())
    ]
    if odd:
        raise DataError(
            f"{path}: {len(odd)} labels are neither a name nor a whole number, such as "
            f"{', '.join(odd[:_MAX_NAMED])}; mend these rows, or put rows without labels in a file of their own"
        )
    return values
