"""Writing a data set with added rows in the form of its source, so that it is read as the source was."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.contracts.errors import DataError
from tasks.datasets import Source
from tasks.datasets.assignment import pack_assignment
from tasks.datasets.csv import Csv
from tasks.datasets.csv_rows import append_rows
from tasks.datasets.extending import Extension
from tasks.datasets.npz import Npz
from tasks.datasets.source import RawTable
from tasks.datasets.text import Text
from tasks.datasets.text_rows import append_texts
from tasks.datasets.tokenization import LoadTokenizer

_ASSIGNED = "splits.npz"
_UNLABELLED = "unlabelled.npz"
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class ExtendedForm:
    """The files of a version, by their name in its folder, and the source that reads them from a folder."""

    files: dict[str, bytes]
    source_in: Callable[[str], Source]


def extended_form(source: Source, base: RawTable, extension: Extension, tokenizer: bytes | None) -> ExtendedForm:
    """Write `base`, the rows of `source`, and the new rows of `extension`.

    A table and texts stay files of their kind, with lines appended. Arrays, and data sets that Stillhouse ships, become
    an npz of rows exactly as the model takes them. Equal rows give equal bytes.

    Args:
        source: where the base comes from.
        base: its rows.
        extension: the new rows, and the split of every row.
        tokenizer: for texts, the one that the base's rows are encoded with, which is kept: token ids must not change
            their meaning under the clients.

    Raises:
        DataError: rows cannot be written in this form.
    """
    assigned = {_ASSIGNED: pack_assignment(extension.assignment)}
    if isinstance(source, Csv):
        name = f"rows{base.paths[0].suffix or '.csv'}"
        content = append_rows(source, base, extension.x, extension.y)
        return ExtendedForm(
            {name: content} | assigned,
            lambda folder: source.model_copy(update={"path": f"{folder}/{name}", "assigned": f"{folder}/{_ASSIGNED}"}),
        )
    if isinstance(source, Text):
        assert tokenizer is not None, "texts have a tokenizer"
        return _of_texts(source, base, extension, tokenizer, assigned)
    return _of_arrays(source, base, extension, assigned)


def _of_texts(
    source: Text, base: RawTable, extension: Extension, tokenizer: bytes, assigned: dict[str, bytes]
) -> ExtendedForm:
    name = f"rows{base.paths[0].suffix}"
    content = append_texts(source, base.paths[0], base.class_names, list(extension.x), extension.y)

    def source_in(folder: str) -> Text:
        return source.model_copy(
            update={
                "path": f"{folder}/{name}",
                "assigned": f"{folder}/{_ASSIGNED}",
                "tokenizer": LoadTokenizer(load=f"{folder}/{_TOKENIZER}", max_length=source.tokenizer.max_length),
            }
        )

    return ExtendedForm({name: content, _TOKENIZER: tokenizer} | assigned, source_in)


def _of_arrays(source: Source, base: RawTable, extension: Extension, assigned: dict[str, bytes]) -> ExtendedForm:
    x, y = np.concatenate([base.x, extension.x]), np.concatenate([base.y, extension.y])
    if x.ndim == 3:
        raise DataError(f"rows of shape {x.shape[1:]} would be read back as images; give the base a channel axis")
    files = {"rows.npz": _npz(x=x, y=y)} | assigned
    if base.unlabelled is not None:
        files[_UNLABELLED] = _npz(x=base.unlabelled)

    def source_in(folder: str) -> Npz:
        return Npz(
            name=source.name,
            path=f"{folder}/rows.npz",
            assigned=f"{folder}/{_ASSIGNED}",
            unlabelled=f"{folder}/{_UNLABELLED}" if base.unlabelled is not None else None,
            task=base.task,
            class_names=base.class_names,
            split=source.split,
            license=source.license,
            expect=source.expect,
        )

    return ExtendedForm(files, source_in)


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return buffer.getvalue()
