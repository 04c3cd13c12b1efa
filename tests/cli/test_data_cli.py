import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from flows.cli.data import app
from tasks.contracts.data import SPLIT_NAMES, DatasetRef, SplitRef
from tasks.contracts.errors import ArtifactMissingError, DataError, UserError
from tasks.datasets.npz import Npz
from tasks.datasets.splits import pack_split
from tasks.runtime.services import connect
from tasks.runtime.settings import current_settings
from tasks.stages.fetching import request_name, source_revision

CHECKOUT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings(r"ignore:_NoneStep\.value will soon raise:DeprecationWarning:dvc")


@pytest.fixture
def services(tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STILLHOUSE_PROJECT", str(project))
    monkeypatch.setenv("COLUMNS", "200")
    current_settings.cache_clear()
    connect.cache_clear()
    yield connect()
    current_settings.cache_clear()
    connect.cache_clear()


def run(*arguments):
    """Run the command; what it raises on purpose reaches the caller, as it does the command's root."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture
def data(services):
    splits = {}
    for number, split in enumerate(SPLIT_NAMES):
        stored = services.artifacts.put(pack_split(np.full((2, 3), number, dtype=np.float32), np.arange(2)))
        splits[split] = SplitRef(
            digest=stored.digest, size_bytes=stored.size_bytes, num_rows=2, composition={"a": 1, "b": 1}
        )
    ref = DatasetRef(
        name="toys", task="classification", revision="0" * 32, input_shape=(3,), class_names=("a", "b"), splits=splits
    )
    services.documents.append("datasets/toys", ref.canonical_json(), 0)
    return ref


def test_export_writes_the_tokenizer_beside_the_split_of_a_text_data_set(services, data, tmp_path):
    tokenizer = services.artifacts.put(b"the tokenizer")
    ref = data.model_copy(update={"tokenizer": tokenizer, "vocab_size": 30, "input_dtype": "int64"})
    services.documents.append("datasets/toys", ref.canonical_json(), 1)

    shown = run("export", "toys", "--split", "test", "--out", str(tmp_path / "t.npz")).output
    report = json.loads(run("export", "toys", "--split", "test", "--out", str(tmp_path / "t.npz"), "--json").output)

    assert (tmp_path / "t.tokenizer.json").read_bytes() == b"the tokenizer"
    assert "t.tokenizer.json: the tokenizer, 30 tokens" in shown
    assert report["tokenizer"] == str(tmp_path / "t.tokenizer.json")


def test_export_names_the_splits_that_there_are_when_one_is_missing(services, data, tmp_path):
    splits = {name: split for name, split in data.splits.items() if name != "unlabelled"}
    services.documents.append("datasets/toys", data.model_copy(update={"splits": splits}).canonical_json(), 1)

    with pytest.raises(DataError, match=r"no split 'unlabelled'; it has train, calibration, validation, test"):
        run("export", "toys", "--split", "unlabelled", "--out", str(tmp_path / "u.npz"))


def test_export_writes_the_split_byte_for_byte(services, data, tmp_path):
    out = tmp_path / "new" / "test.npz"

    result = run("export", "toys", "--split", "test", "--out", str(out), "--json")

    assert out.read_bytes() == services.artifacts.get(data.splits["test"].digest)
    with np.load(out) as arrays:
        assert sorted(arrays.files) == ["x", "y"]
        assert arrays["x"].tolist() == [[3.0] * 3] * 2
    report = json.loads(result.stdout)
    assert (report["dataset"], report["split"], report["num_rows"]) == ("toys", "test", 2)
    assert report["digest"] == data.splits["test"].digest


def test_export_says_what_it_wrote(data, tmp_path):
    assert "2 rows of toys/train" in run("export", "toys", "--split", "train", "--out", str(tmp_path / "o.npz")).stdout


def test_export_takes_the_splits_of_the_plan_when_given_its_path(services, data, tmp_path):
    np.savez(services.settings.project / "toys.npz", x=np.ones((4, 3)), y=np.arange(4) % 2)
    plan = yaml.safe_load((CHECKOUT / "plans" / "digits.yaml").read_text())
    plan |= {"seed": 5, "dataset": {"source": "npz", "name": "toys", "path": "toys.npz"}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    source = Npz(name="toys", path="toys.npz")
    name = request_name(source, source_revision(source, services.settings), 5)
    swapped = {"splits": data.splits | {"test": data.splits["train"], "train": data.splits["test"]}}
    services.documents.append(name, data.model_copy(update=swapped).canonical_json(), 0)

    run("export", str(tmp_path / "plan.yaml"), "--split", "test", "--out", str(tmp_path / "o.npz"))

    assert (tmp_path / "o.npz").read_bytes() == services.artifacts.get(data.splits["train"].digest)


def test_export_names_what_is_prepared_when_the_name_is_unknown(data, tmp_path):
    with pytest.raises(DataError, match=r"'cars' has not been prepared.*stillhouse run.*Prepared are: toys"):
        run("export", "cars", "--split", "test", "--out", str(tmp_path / "o.npz"))


def test_export_exits_with_2_when_the_split_is_unknown(data, tmp_path):
    result = run("export", "toys", "--split", "tset", "--out", str(tmp_path / "o.npz"))

    assert result.exit_code == 2
    assert "validation" in result.output


def test_export_names_the_place_when_it_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match="--out"):
        run("export", "toys", "--split", "test", "--out", str(tmp_path / "file" / "o.npz"))


def test_export_leaves_no_file_when_the_split_is_gone_from_the_store(services, data, tmp_path):
    shutil.rmtree(services.settings.store_root / "sha256")

    with pytest.raises(ArtifactMissingError):
        run("export", "toys", "--split", "test", "--out", str(tmp_path / "o.npz"))
    assert not (tmp_path / "o.npz").exists()


def test_versions_of_data_go_to_the_remote_and_back(services):
    folder = services.settings.project / "data"
    folder.mkdir()
    (folder / "a.txt").write_text("1")

    added = json.loads(run("add", "--json").stdout)
    assert json.loads(run("push", "--json").stdout) == {
        "revision": added["revision"],
        "action": "pushed",
        "remote": str(services.settings.home / "dvc-remote"),
    }
    status = json.loads(run("status", "--remote", "--json").stdout)
    assert (status["state"], status["tracked"], status["remote_has_it"]) == ("equal", added["revision"], True)

    (folder / "a.txt").write_text("2")
    assert "modified" in run("status").stdout
    with pytest.raises(DataError, match="--force"):
        run("pull")
    assert "pulled" in run("pull", "--force").stdout
    assert (folder / "a.txt").read_text() == "1"
    assert "nothing to do" in run("pull").stdout


@pytest.mark.parametrize("command", ["export", "status", "add", "push", "pull"])
def test_help_teaches_and_offers_json(command):
    result = run(command, "--help")

    assert result.exit_code == 0
    assert "--json" in result.stdout
