"""Turning rows of token ids back into texts, and adding these to the file that the others came from."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np

from tasks.datasets.text import Text
from tasks.datasets.text_files import read_labelled
from tasks.datasets.tokenization import decode, encode


def readable_texts(x: np.ndarray, tokenizer: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return texts as str objects [M], and which rows of `x` int64 [N, T] they are, bool [N].

    Left out are rows that no text gives, and those that are not given again by the text which they decode to:
    what a model would learn from that text is not what the client sent.
    """
    texts = decode(x, tokenizer)
    good = np.array([bool(text.strip()) for text in texts], dtype=bool)
    if len(texts):
        good &= (encode(texts, tokenizer) == x).all(axis=1)
    found = np.empty(int(good.sum()), dtype=object)
    found[:] = [text for text, keep in zip(texts, good, strict=True) if keep]
    return found, good


def append_texts(source: Text, path: Path, class_names: tuple[str, ...], texts: list[str], y: np.ndarray) -> bytes:
    """Return the file at `path` with a row for each text, in its own form; where it has parts, in the one trained on.

    Args:
        source: how the file is read.
        path: the file.
        class_names: names of the classes by index.
        texts: the new texts.
        y: class indices of the new texts.
    """
    labels: list[str | int] = [class_names[index] for index in y.tolist()]
    if all(isinstance(label, int) for label in read_labelled(path, source.text, source.label, source.part).labels):
        labels = [int(index) if source.class_names else int(class_names[index]) for index in y.tolist()]
    part = source.parts.train[0] if source.parts else ""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        document = json.loads(content)
        document[part] += [[text, label] for text, label in zip(texts, labels, strict=True)]
        return json.dumps(document, ensure_ascii=False).encode()
    content += "" if content.endswith("\n") else "\n"
    fields = {source.text: texts, source.label: labels} | ({source.part: [part] * len(texts)} if source.part else {})
    rows = [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
    lines = io.StringIO()
    if path.suffix == ".csv":
        header = next(csv.reader(io.StringIO(content)))
        csv.DictWriter(lines, header, restval="", lineterminator="\n").writerows(rows)
    else:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return (content + lines.getvalue()).encode()
