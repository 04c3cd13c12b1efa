import io
import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks.contracts.data import LABELLED_SPLIT_NAMES, SPLIT_NAMES, DatasetRef, SpecialTokens
from tasks.contracts.errors import DataError
from tasks.datasets.csv import Csv
from tasks.datasets.digits import Digits
from tasks.datasets.npz import Npz
from tasks.datasets.revision import file_revision
from tasks.datasets.source import Expectations
from tasks.datasets.text import Text, TextExpectations
from tasks.datasets.tokenization import encode
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings
from tasks.stages import fetching
from tasks.stages.fetching import prepare_dataset, record_dataset, request_name, source_revision
from tasks.stages.splits import load_split

CHECKOUT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:_NoneStep\.value will soon raise:DeprecationWarning:dvc"),
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
]


@pytest.fixture
def services(tmp_path, monkeypatch):
    """The real services below a temporary folder, whose project is a copy of the checkout's data versioning."""
    project = tmp_path / "project"
    shutil.copytree(CHECKOUT / ".dvc", project / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    shutil.copy(CHECKOUT / "data.dvc", project)
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STILLHOUSE_PROJECT", str(project))
    current_settings.cache_clear()
    connect.cache_clear()
    yield connect()
    current_settings.cache_clear()
    connect.cache_clear()


@pytest.fixture
def unvalidated(monkeypatch):
    """Skip Great Expectations, which takes half a second each time, where the test is about something else."""
    monkeypatch.setattr(fetching, "validate", lambda *_: None)


def rows(services, ref, split):
    with np.load(io.BytesIO(services.artifacts.get(ref.splits[split].digest)), allow_pickle=False) as arrays:
        return arrays["x"], arrays["y"]


def written_npz(services, num_rows=400, **changes):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.random((num_rows, 3, 3), dtype=np.float32), "y": np.arange(num_rows) % 2} | changes
    np.savez(services.settings.project / "rows.npz", **arrays)
    return Npz(
        name="rows", path="rows.npz", x_test="tx" if "tx" in changes else None, y_test="ty" if "ty" in changes else None
    )


def prepared(source, services, seed=0):
    return prepare_dataset(source, source_revision(source, services.settings), seed)


def test_prepare_dataset_gives_all_digits_in_whole_disjoint_splits_from_a_fresh_clone(services):
    revision = source_revision(Digits(), services.settings)

    ref = prepare_dataset(Digits(), revision, 0)

    assert f"md5: {revision}" in (CHECKOUT / "data.dvc").read_text()
    assert tuple(ref.splits) == LABELLED_SPLIT_NAMES
    assert (ref.name, ref.task, ref.input_shape, ref.revision) == ("digits", "classification", (1, 8, 8), revision)
    loaded = {split: rows(services, ref, split) for split in LABELLED_SPLIT_NAMES}
    assert sum(len(x) for x, _ in loaded.values()) == 1797
    assert len({x.tobytes() for xs, _ in loaded.values() for x in xs}) == 1797
    for split, (x, y) in loaded.items():
        assert (x.dtype, y.dtype, x.shape[1:]) == (np.float32, np.int64, (1, 8, 8))
        assert ref.splits[split].composition == dict(zip(ref.class_names, np.bincount(y).tolist(), strict=True))
        assert ref.splits[split].num_rows == len(x)


def test_prepare_dataset_is_deterministic_and_depends_on_the_seed(services, unvalidated):
    source = written_npz(services)

    first, again, other = prepared(source, services), prepared(source, services), prepared(source, services, seed=1)

    assert first.digest == again.digest != other.digest


def test_prepare_dataset_records_what_it_prepared_once_each_time_it_changes(services, unvalidated):
    source = written_npz(services)
    for seed in (0, 0, 1, 1, 0):
        ref = prepared(source, services, seed)

    latest = services.documents.latest("datasets/rows")
    revision = file_revision(services.settings.project / "rows.npz")
    exact = services.documents.latest(request_name(source, revision, 1))

    assert latest.version == 3
    assert DatasetRef.model_validate_json(latest.data).digest == ref.digest
    assert exact.version == 1
    assert DatasetRef.model_validate_json(exact.data).digest != ref.digest


def test_prepare_dataset_handles_a_regression_table(services):
    rng = np.random.default_rng(0)
    lines = [f"{a:.4f},{b},{a * 2:.4f}" for a, b in zip(rng.random(300), rng.choice(["u", "v"], 300), strict=True)]
    (services.settings.project / "t.csv").write_text("\n".join(["a,kind,target", *lines]))
    source = Csv(name="t", path="t.csv", task="regression", target="target", categorical={"kind": ("u", "v")})

    ref = prepared(source, services)

    assert (ref.task, ref.input_shape, ref.class_names, ref.num_outputs) == ("regression", (3,), (), 1)
    assert all(list(split.composition) == ["q1", "q2", "q3", "q4"] for split in ref.splits.values())
    assert rows(services, ref, "test")[1].dtype == np.float32


def written_texts(services, **fields):
    """Two intents in 200 texts, and one that occurs in no labelled row."""
    words = ["lamp", "light", "bulb", "lantern"]
    lines = [f"{verb} {word} {n},{verb}" for verb in ("on", "off") for word in words for n in range(25)]
    (services.settings.project / "t.csv").write_text("\n".join(["text,label", *lines]))
    (services.settings.project / "more.txt").write_text("zebra crossing\n")
    tokenizer = {"algorithm": "word", "min_frequency": 1, "max_length": 4}
    return Text.model_validate({"name": "t", "path": "t.csv", "tokenizer": tokenizer} | fields)


def test_prepare_dataset_encodes_texts_with_a_tokenizer_that_saw_the_train_split_alone(services):
    ref = prepared(written_texts(services, unlabelled="more.txt"), services)

    assert (ref.input_shape, ref.input_dtype, ref.class_names) == ((4,), "int64", ("off", "on"))
    assert tuple(ref.splits) == SPLIT_NAMES
    tokenizer = services.artifacts.get(ref.tokenizer.digest)
    x, y = rows(services, ref, "train")
    assert x.dtype == np.int64
    assert x.max() == ref.vocab_size - 1
    assert ref.special_tokens == SpecialTokens(pad=0, others=(1,))
    assert np.array_equal(x[:, 0] == encode(["on"], tokenizer)[0, 0], ref.class_names.index("on") == y)
    unlabelled, no_labels = rows(services, ref, "unlabelled")
    assert unlabelled.tolist() == [[1, 1, 0, 0]], "the tokenizer was not trained on these words"
    assert no_labels.tolist() == [-1]
    assert ref.splits["unlabelled"].composition == {}


def test_prepare_dataset_gives_texts_the_same_identity_again(services, unvalidated):
    first, again = (prepared(written_texts(services), services) for _ in range(2))
    other = prepared(written_texts(services, tokenizer={"vocab_size": 40, "max_length": 4}), services)

    assert first.digest == again.digest != other.digest


def test_prepare_dataset_stops_when_a_text_is_blank_or_too_long(services):
    source = written_texts(services, expect=TextExpectations(max_chars=18))
    (services.settings.project / "t.csv").write_text(
        (services.settings.project / "t.csv").read_text() + '\n" ",on\non the lantern please,on'
    )

    with pytest.raises(DataError, match=r"row_chars, min_value 1.*, max_value 18.*; observed .*\[0, 21\]"):
        prepared(source, services)


def test_source_revision_moves_with_every_file_of_the_data_set(services):
    source = written_texts(services, unlabelled="more.txt")
    before = source_revision(source, services.settings)

    (services.settings.project / "more.txt").write_text("other\n")

    assert source_revision(source, services.settings) != before
    assert source_revision(written_texts(services), services.settings) == file_revision(
        services.settings.project / "t.csv"
    )


def test_load_split_names_the_remedy_when_there_are_no_unlabelled_rows(services, unvalidated):
    ref = prepared(written_npz(services), services)

    with pytest.raises(DataError, match=r"no split 'unlabelled'.*split\.unlabelled"):
        load_split(services.artifacts, ref, "unlabelled")


def test_source_revision_moves_with_the_users_file(services):
    source = written_npz(services)
    before = source_revision(source, services.settings)

    written_npz(services, num_rows=401)

    assert source_revision(source, services.settings) != before


def test_source_revision_names_the_file_when_it_is_missing(services):
    with pytest.raises(DataError, match=r"nothing\.npz cannot be read.*dataset\.path"):
        source_revision(Npz(name="n", path="nothing.npz"), services.settings)


def test_source_revision_restores_tracked_data_before_it_reads_a_file_in_it(services):
    source = Npz(name="n", path="data/digits/images.npy")

    assert source_revision(source, services.settings) == file_revision(services.settings.project / source.path)


def test_prepare_dataset_refuses_rows_of_another_revision(services):
    source = written_npz(services)

    with pytest.raises(DataError, match=r"data set rows at .*rows\.npz is of revision .* asked for 0+"):
        prepare_dataset(source, "0" * 32, 0)


def test_prepare_dataset_refuses_a_file_that_is_replaced_while_it_is_read(services, monkeypatch):
    source = written_npz(services)
    revision = source_revision(source, services.settings)
    load = Npz.load

    def load_and_replace(self, root):
        table = load(self, root)
        written_npz(services, num_rows=401)
        return table

    monkeypatch.setattr(Npz, "load", load_and_replace)

    with pytest.raises(DataError, match="changed in between"):
        prepare_dataset(source, revision, 0)


def test_prepare_dataset_stops_when_rows_leak_into_the_given_test_rows(services, unvalidated):
    rng = np.random.default_rng(1)
    x = rng.random((200, 3, 3), dtype=np.float32)
    tx = np.concatenate([rng.random((38, 3, 3), dtype=np.float32), x[:2]])
    source = written_npz(services, x=x, y=np.arange(200) % 2, tx=tx, ty=np.arange(40) % 2)

    with pytest.raises(DataError, match="rows of test are also in"):
        prepared(source, services)
    assert services.documents.latest("datasets/rows") is None


def test_prepare_dataset_stops_when_an_expectation_breaks(services):
    source = written_npz(services).model_copy(update={"expect": Expectations(min_rows=1000)})

    with pytest.raises(DataError, match="expect_table_row_count_to_be_between: expected min_value 1000"):
        prepared(source, services)


def test_prepare_dataset_names_the_class_that_a_split_lacks(services, unvalidated):
    y = np.zeros(400, dtype=np.int64)
    y[:3] = 1

    with pytest.raises(DataError, match="has no row of class 1"):
        prepared(written_npz(services, y=y), services)


def test_record_dataset_can_name_an_earlier_preparation_as_the_latest_again(services, unvalidated):
    source = written_npz(services)
    first = prepared(source, services)
    prepared(source, services, seed=1)

    record_dataset(first, services.documents)

    assert DatasetRef.model_validate_json(services.documents.latest("datasets/rows").data).digest == first.digest


def test_source_revision_loads_no_heavy_module_on_the_happy_path(services):
    import subprocess
    import sys

    source_revision(Digits(), services.settings)
    heavy = {"dvc", "great_expectations", "pandas", "sklearn", "torch", "mlflow", "botocore"}
    code = (
        "import sys; from tasks.datasets import *; from tasks.runtime.settings import current_settings;"
        f"from {fetching.__name__} import source_revision;"
        f"source_revision(Digits(), current_settings()); print(sorted({heavy!r} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
