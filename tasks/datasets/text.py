"""Texts with a class label, from a CSV or JSON-lines file, or from JSON with the parts of an official split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from tasks.contracts.errors import DataError
from tasks.contracts.value import Value
from tasks.datasets.labels import class_indices
from tasks.datasets.source import Expectations, RawTable, SourceSpec
from tasks.datasets.splits import text_key
from tasks.datasets.text_files import TextRows, read_labelled, read_unlabelled
from tasks.datasets.tokenization import LoadTokenizer, TrainTokenizer, load_tokenizer, train_tokenizer


class TextExpectations(Expectations):
    """What must hold of texts: none is blank, besides what is said here."""

    max_chars: int | None = Field(default=None, ge=1, description="Most characters that a text may have.")

    @model_validator(mode="after")
    def _texts_have_no_values(self) -> TextExpectations:
        if self.value_min is not None or self.value_max is not None:
            raise ValueError("value_min and value_max are for numeric inputs; texts have max_chars")
        return self


class Parts(Value):
    """Which parts of the file become which split; rows of other parts are left out."""

    train: tuple[str, ...] = Field(
        default=("train",), min_length=1, description="Parts that are shared out among the splits without own parts."
    )
    validation: tuple[str, ...] = Field(default=(), description="Parts that are the validation split as they stand.")
    test: tuple[str, ...] = Field(default=(), description="Parts that are the test split as they stand.")
    unlabelled: tuple[str, ...] = Field(default=(), description="Parts whose labels are dropped.")

    @model_validator(mode="after")
    def _parts_have_one_role(self) -> Parts:
        named = [*self.train, *self.validation, *self.test, *self.unlabelled]
        repeated = sorted({part for part in named if named.count(part) > 1})
        if repeated:
            raise ValueError(f"parts {repeated} are named more than once among train, validation, test and unlabelled")
        return self


class Text(SourceSpec):
    """Texts and their classes; `x` becomes int64 [N, max_length], ids of a tokenizer that saw the train split alone."""

    source: Literal["text"] = "text"
    path: str = Field(
        min_length=1,
        description="A .csv with a header, a .jsonl with an object a line, or a .json that maps parts to lists of "
        "[text, label]; a relative path starts at the project's root.",
    )
    text: str = Field(default="text", description="Column or key of the text.")
    label: str = Field(default="label", description="Column or key of the label.")
    part: str | None = Field(default=None, description="Column or key of the part that a row belongs to.")
    parts: Parts | None = Field(default=None, description="What the file's parts are for; none: it is split afresh.")
    overlap: Literal["error", "drop"] = Field(
        default="error",
        description="Texts that stand in two parts: refuse the file, or leave them out of train (and of validation, "
        "where they are in test too).",
    )
    unlabelled: str | None = Field(
        default=None,
        min_length=1,
        description="A file of texts without labels: a .txt, one a line, or a .csv or .jsonl with the column `text`.",
    )
    tokenizer: TrainTokenizer | LoadTokenizer = TrainTokenizer()
    class_names: tuple[str, ...] = Field(default=(), description="Names of the classes; none: the distinct labels.")
    expect: TextExpectations = TextExpectations()

    @model_validator(mode="after")
    def _parts_can_be_known(self) -> Text:
        has_parts = self.path.endswith(".json") or self.part is not None
        if has_parts != (self.parts is not None):
            raise ValueError(
                "a .json file and a `part` column need `parts`, which says what they are for, such as "
                "{train: [train], test: [test]}; a file without them takes no `parts`"
            )
        return self

    def location(self, project_root: Path) -> Path:
        """See `SourceSpec.location`."""
        return project_root / Path(self.path).expanduser()

    def other_files(self, project_root: Path) -> tuple[Path, ...]:
        """See `SourceSpec.other_files`."""
        loaded = self.tokenizer.load if isinstance(self.tokenizer, LoadTokenizer) else None
        return tuple(project_root / Path(name).expanduser() for name in (self.unlabelled, loaded) if name is not None)

    def load(self, project_root: Path) -> RawTable:
        """See `SourceSpec.load`."""
        path = self.location(project_root)
        rows = read_labelled(path, self.text, self.label, self.part)
        roles = self._roles(rows, path)
        roles = self._without_overlap(rows.texts, roles, path)
        kept = np.isin(roles, ["train", "validation", "test"])
        texts = _objects(rows.texts)
        y, class_names = class_indices(_labels(rows.labels, kept), self.class_names, path)
        return RawTable(
            x=texts[kept],
            y=y,
            task="classification",
            class_names=class_names,
            paths=(path, *self.other_files(project_root)),
            test_rows=roles[kept] == "test" if "test" in roles else None,
            validation_rows=roles[kept] == "validation" if "validation" in roles else None,
            unlabelled=self._unlabelled(texts[roles == "unlabelled"], project_root),
            make_tokenizer=lambda train: self._tokenizer(train, project_root),
        )

    def _roles(self, rows: TextRows, path: Path) -> np.ndarray:
        """Return the role of each row, "" for those that are left out."""
        if self.parts is None or rows.parts is None:
            return np.full(len(rows.texts), "train", dtype=object)
        wanted = self.parts.model_dump()
        present = set(rows.parts)
        absent = [name for names in wanted.values() for name in names if name not in present]
        if absent:
            raise DataError(f"{path} has no part {absent}; its parts are {sorted(present)}: correct dataset.parts")
        role_of = {name: role for role, names in wanted.items() for name in names}
        return _objects([role_of.get(part, "") for part in rows.parts])

    def _without_overlap(self, texts: list[str], roles: np.ndarray, path: Path) -> np.ndarray:
        """Take texts of a part that is judged on out of the parts that are learned from, or refuse them."""
        keys = _objects([text_key(text) for text in texts])
        in_test, in_validation = set(keys[roles == "test"]), set(keys[roles == "validation"])
        repeated = np.array(
            [
                (role == "train" and (key in in_test or key in in_validation))
                or (role == "validation" and key in in_test)
                for role, key in zip(roles, keys, strict=True)
            ]
        )
        if repeated.any() and self.overlap == "error":
            example = texts[int(np.flatnonzero(repeated)[0])]
            raise DataError(
                f"{path}: {int(repeated.sum())} texts stand in two parts, such as {example[:80]!r}, so no score could "
                "be trusted; set overlap: drop to leave them out of train (and of validation, if test has them)"
            )
        return np.where(repeated, "", roles)

    def _unlabelled(self, of_parts: np.ndarray, project_root: Path) -> np.ndarray | None:
        texts = list(of_parts)
        if self.unlabelled is not None:
            texts += read_unlabelled(project_root / Path(self.unlabelled).expanduser(), self.text)
        return _objects(texts) if texts else None

    def _tokenizer(self, texts: Sequence[str], project_root: Path) -> bytes:
        if isinstance(self.tokenizer, LoadTokenizer):
            return load_tokenizer(project_root / Path(self.tokenizer.load).expanduser(), self.tokenizer.max_length)
        return train_tokenizer(texts, self.tokenizer)


def _objects(texts: list[str]) -> np.ndarray:
    """Return texts as an array of str objects [N], which takes no more memory than they do."""
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _labels(labels: list[str | int], kept: np.ndarray) -> np.ndarray:
    """Return the labels of the kept rows: all integers, or else all text."""
    chosen = [label for label, keep in zip(labels, kept, strict=True) if keep]
    return np.array(chosen if all(isinstance(label, int) for label in chosen) else [str(label) for label in chosen])
