"""Each form is read back by the source's own reader: base rows first and unchanged, new rows bit for bit."""

import json

import numpy as np
import pytest

from tasks.contracts.errors import DataError
from tasks.datasets.assignment import assignment_of
from tasks.datasets.csv import Csv
from tasks.datasets.csv_rows import shortest
from tasks.datasets.extended_form import extended_form
from tasks.datasets.extending import extend
from tasks.datasets.npz import Npz
from tasks.datasets.splits import row_hashes, split_rows
from tasks.datasets.text import Text
from tasks.datasets.text_rows import readable_texts
from tasks.datasets.tokenization import encode


def extended(source, root, x, y, tokenizer=None):
    """Write `x`, `y` beside the source's rows to `root/new`; return what is read before and after, and the files."""
    base = source.load(root)
    assignment = assignment_of(base.x, split_rows(base, source.split, 0))
    extension = extend(base, assignment, x, y, source.split, 0)
    form = extended_form(source, base, extension, tokenizer)
    (root / "new").mkdir()
    for name, content in form.files.items():
        (root / "new" / name).write_bytes(content)
    again = form.source_in("new")
    return base, extension, again.load(root), form


def require_joined(base, extension, after):
    assert after.class_names == base.class_names
    assert row_hashes(after.x) == row_hashes(base.x) + row_hashes(extension.x)
    np.testing.assert_array_equal(after.y, np.concatenate([base.y, extension.y]))


def test_arrays_become_rows_as_the_model_takes_them_with_equal_bytes_for_equal_rows(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x=rng.integers(0, 256, (60, 4, 4)).astype(np.uint8), y=np.arange(60) % 3 + 5)
    source = Npz(name="a", path="a.npz", scale=1 / 255, unlabelled="a.npz")
    x = rng.random((20, 1, 4, 4), dtype=np.float32)

    base, extension, after, form = extended(source, tmp_path, x, np.arange(20) % 3.0)

    require_joined(base, extension, after)
    assert after.class_names == ("5", "6", "7")
    np.testing.assert_array_equal(after.unlabelled, base.unlabelled)
    assert form.files == extended_form(source, base, extension, None).files


CSV_LINES = [
    "id,a,kind,b,target",
    "r1,0.1,u,3,1.5",
    "r2,-2.25,v,4,2.5",
    *(f"r{n},{n / 7:.3f},u,{n},{n}" for n in range(40)),
]


@pytest.mark.parametrize("newline", ["\n", ""])
def test_a_table_stays_the_file_that_it_was_with_lines_appended(tmp_path, newline):
    (tmp_path / "t.csv").write_text("\n".join(CSV_LINES) + newline)
    source = Csv(
        name="t", path="t.csv", task="regression", target="target", exclude=("id",), target_scale=0.1,
        categorical={"kind": ("u", "v")},
    )  # fmt: skip
    x = np.array([[0.3333333, 7, 0, 1], [1e-7, -8, 1, 0]], np.float32)

    base, extension, after, form = extended(source, tmp_path, x, np.array([0.123456, -4.0]))

    require_joined(base, extension, after)
    lines = form.files["rows.csv"].decode().splitlines()
    assert lines[: len(CSV_LINES)] == CSV_LINES
    assert lines[-2].startswith(",0.3333333,v,7,")


@pytest.mark.parametrize(
    ("labels", "class_names", "written"),
    [("no yes", (), "yes"), ("0 1", ("no", "yes"), "1"), ("3 7", (), "7"), ("no yes", ("yes", "no"), "yes")],
)
def test_a_tables_classes_are_written_as_the_file_writes_them(tmp_path, labels, class_names, written):
    names = labels.split()
    lines = [f"{n},{names[n % 2]}" for n in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["a,label", *lines]))
    source = Csv(name="t", path="t.csv", task="classification", target="label", class_names=class_names)
    label = source.load(tmp_path).class_names.index("yes" if "yes" in class_names else written)

    base, extension, after, form = extended(source, tmp_path, np.array([[99]], np.float32), np.array([float(label)]))

    require_joined(base, extension, after)
    assert form.files["rows.csv"].decode().splitlines()[-1] == f"99,{written}"


def test_a_table_refuses_a_row_that_names_no_category(tmp_path):
    (tmp_path / "t.csv").write_text("\n".join(CSV_LINES))
    source = Csv(
        name="t", path="t.csv", task="regression", target="target", exclude=("id",), categorical={"kind": ("u", "v")}
    )
    with pytest.raises(DataError, match="1 of 1 rows name no category, or several, of column 'kind'"):
        extended(source, tmp_path, np.array([[1, 2, 0.5, 0.5]], np.float32), np.array([1.0]))


def test_shortest_is_read_as_the_same_number():
    scales = 10.0 ** np.arange(-10, 10).repeat(100)
    values = (np.random.default_rng(0).normal(size=2000) * scales).astype(np.float32)
    values = np.append(values, np.array([0.0, -0.0, 2**25, 3, np.finfo(np.float32).max], np.float32))
    assert np.array([shortest(value) for value in values], np.float64).astype(np.float32).tobytes() == values.tobytes()


WORDS = {"on": "lamp light bulb", "off": "stop halt end"}
ROWS = [(f"{word} now {n}", label) for label, words in WORDS.items() for word in words.split() for n in range(20)]
TOKENIZER = {"algorithm": "word", "min_frequency": 1, "max_length": 4}


def write_texts(path):
    match path.suffix:
        case ".csv":
            path.write_text("\n".join(["note,text,label", *(f'"",{text},{label}' for text, label in ROWS)]))
        case ".jsonl":
            path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS))
        case ".json":
            path.write_text(json.dumps({"train": ROWS, "left out": [["zebra", "on"]]}))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_texts_stay_in_their_file_and_keep_their_tokenizer(tmp_path, suffix):
    write_texts(tmp_path / f"t{suffix}")
    parts = {"parts": {"train": ["train"]}} if suffix == ".json" else {}
    source = Text.model_validate({"name": "t", "path": f"t{suffix}", "tokenizer": TOKENIZER} | parts)
    base = source.load(tmp_path)
    tokenizer = base.make_tokenizer(list(base.x))
    sent = ["Lamp halt", "stop now bulb", "lamp unheard"]
    texts, good = readable_texts(encode(sent, tokenizer), tokenizer)
    assert texts.tolist() == ["lamp halt", "stop now bulb"]
    assert good.tolist() == [True, True, False], "an unknown word does not come back"

    base, extension, after, _ = extended(source, tmp_path, texts, np.array([0.0, 1.0]), tokenizer)

    require_joined(base, extension, after)
    again = after.make_tokenizer(["other words"])
    np.testing.assert_array_equal(encode(sent, again), encode(sent, tokenizer))
