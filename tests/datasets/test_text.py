import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.contracts.errors import DataError
from tasks.datasets import Source
from tasks.datasets.dividing import divide
from tasks.datasets.source import SplitFractions
from tasks.datasets.text import Parts, Text
from tasks.datasets.tokenization import encode, vocabulary_size

OFFICIAL = {
    "train": [[f"turn on lamp {n}", "lights"] for n in range(40)] + [[f"play song {n}", "music"] for n in range(40)],
    "val": [["lamp please", "lights"], ["song please", "music"]],
    "test": [["lamp now", "lights"], ["song now", "music"]],
    "oos": [["what is love", "oos"]],
}
ALL_PARTS = Parts(train=("train",), validation=("val",), test=("test",))


def official(folder: Path, document: object = OFFICIAL, **changes: object) -> Text:
    (folder / "all.json").write_text(json.dumps(document))
    fields = {"name": "t", "path": "all.json", "parts": ALL_PARTS} | changes
    return Text.model_validate(fields)


def test_text_takes_official_parts_as_they_stand(tmp_path: Path) -> None:
    table = official(tmp_path).load(tmp_path)
    parts = divide(table, SplitFractions(), 0)

    assert table.class_names == ("lights", "music")
    assert sorted(parts["test"].x) == ["lamp now", "song now"]
    assert sorted(parts["validation"].x) == ["lamp please", "song please"]
    assert len(parts["train"].x) + len(parts["calibration"].x) == 80
    assert len(parts["calibration"].x) == pytest.approx(80 / 7, abs=2)
    assert "what is love" not in {text for part in parts.values() for text in part.x}
    assert [table.class_names[label] for label in parts["test"].y] == [
        "lights" if "lamp" in text else "music" for text in parts["test"].x
    ]


def test_text_trains_its_tokenizer_on_the_train_split_alone(tmp_path: Path) -> None:
    table = official(tmp_path, tokenizer={"algorithm": "word", "min_frequency": 1, "max_length": 5}).load(tmp_path)
    train = divide(table, SplitFractions(), 0)["train"].x
    assert table.make_tokenizer is not None

    tokenizer = table.make_tokenizer(list(train))

    unknown = 1
    assert encode(["now", "please"], tokenizer)[:, 0].tolist() == [unknown, unknown]
    assert encode(list(train), tokenizer).min() == 0
    assert unknown not in encode(list(train), tokenizer)
    assert vocabulary_size(tokenizer) <= 4096


def test_text_drops_labels_of_parts_named_unlabelled_and_keeps_their_classes_out(tmp_path: Path) -> None:
    parts = {"train": ["train"], "validation": ["val"], "test": ["test"], "unlabelled": ["oos"]}

    table = official(tmp_path, parts=parts).load(tmp_path)
    unlabelled = divide(table, SplitFractions(), 0)["unlabelled"]

    assert table.class_names == ("lights", "music")
    assert unlabelled.x.tolist() == ["what is love"]
    assert unlabelled.y.tolist() == [-1]


def test_text_refuses_texts_in_two_parts_whatever_their_case_and_drops_them_when_asked(tmp_path: Path) -> None:
    document = OFFICIAL | {"val": [["LAMP  now", "lights"], ["song please", "music"], ["play song 3", "music"]]}

    with pytest.raises(DataError, match=r"2 texts stand in two parts, such as 'play song 3'.*overlap: drop"):
        official(tmp_path, document).load(tmp_path)
    table = official(tmp_path, document, overlap="drop").load(tmp_path)
    parts = divide(table, SplitFractions(), 0)

    assert sorted(parts["test"].x) == ["lamp now", "song now"]
    assert sorted(parts["validation"].x) == ["play song 3", "song please"]
    assert len(parts["train"].x) + len(parts["calibration"].x) == 79


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_text_reads_rows_with_named_columns_and_unlabelled_rows_of_another_file(tmp_path: Path, suffix: str) -> None:
    rows = [{"say": f"{word} {n}", "intent": label} for n in range(30) for word, label in (("NA", 10), ("null, so", 9))]
    if suffix == ".csv":
        lines = ["say,intent", *(f'"{row["say"]}",{row["intent"]}' for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    (tmp_path / f"rows{suffix}").write_text("\n".join(lines) + "\n")
    (tmp_path / "more.txt").write_text("something else\n\nna   7\n")
    source = Text(name="t", path=f"rows{suffix}", text="say", label="intent", unlabelled="more.txt")

    table = source.load(tmp_path)
    parts = divide(table, SplitFractions(), 0)

    assert table.class_names == ("9", "10")
    assert sum(len(parts[name].x) for name in ("train", "calibration", "validation", "test")) == 60
    assert parts["unlabelled"].x.tolist() == ["something else"], "a row that repeats a labelled one is left out"
    assert source.other_files(tmp_path) == (tmp_path / "more.txt",)


def test_text_splits_by_a_column_of_parts(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "label": "ab"[n % 2], "fold": "dev" if n < 60 else "final"} for n in range(70)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))

    table = Text(name="t", path="r.jsonl", part="fold", parts=Parts(train=("dev",), test=("final",))).load(tmp_path)

    assert table.test_rows is not None
    assert table.validation_rows is None
    assert table.test_rows.sum() == 10
    assert divide(table, SplitFractions(), 0)["test"].x.tolist() == [f"row {n}" for n in range(60, 70)]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (["a"], "must map the names of parts"),
        ({"train": [["only text"]]}, r"1 rows are not \[text, label\]"),
        ({"train": [[3, "a"]]}, "1 texts are no text, such as 3"),
        ({"train": [["a", None]]}, "1 labels are neither a name nor a whole number, such as None"),
        ({"train": [["a", " "]]}, "1 labels are neither"),
        ({"train": [["a", "b"]]}, r"has no part \['val', 'test'\]; its parts are \['train'\]"),
    ],
)
def test_text_names_what_is_wrong_with_a_file_of_parts(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        official(tmp_path, document).load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", "a,b\n1,2\n", r"no column \['text', 'label'\]; its header is \['a', 'b'\]"),
        ("r.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"}\n', r"line 2, is no object with the keys"),
        ("r.jsonl", "nonsense\n", "line 1, is not valid JSON"),
        ("r.tsv", "text\n", r"ends in '.tsv'; texts are read from"),
    ],
)
def test_text_names_what_is_wrong_with_a_file_of_rows(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(DataError, match=message):
        Text(name="t", path=name).load(tmp_path)


def test_text_names_the_file_when_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        Text(name="t", path="none.jsonl").load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "a.json"}, "need `parts`"),
        ({"path": "a.csv", "part": "fold"}, "need `parts`"),
        ({"path": "a.csv", "parts": {}}, "takes no `parts`"),
        ({"path": "a.json", "parts": {"train": ["a"], "test": ["a"]}}, "named more than once"),
        ({"path": "a.csv", "expect": {"value_min": 0}}, "texts have max_chars"),
    ],
)
def test_text_spec_refuses_what_does_not_fit(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Text.model_validate({"name": "t"} | fields)


def test_text_spec_survives_its_way_to_another_process() -> None:
    adapter: TypeAdapter[Text] = TypeAdapter(Source)
    for tokenizer in ({"vocab_size": 100}, {"load": "t.json", "max_length": 7}):
        source = adapter.validate_python({"source": "text", "name": "t", "path": "a.csv", "tokenizer": tokenizer})
        assert adapter.validate_json(source.canonical_json()) == source


def test_text_keeps_texts_as_they_are_until_they_are_encoded(tmp_path: Path) -> None:
    table = official(tmp_path).load(tmp_path)

    assert table.is_text
    assert table.x.dtype == object
    assert table.x[0] == "turn on lamp 0"
    assert np.issubdtype(table.y.dtype, np.int64)
