"""What every store promises, held against each of them."""

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from tasks.adapters import local_store, s3_store
from tasks.adapters.route_store import RouteStore
from tasks.contracts.artifact import artifact_key, checkpoint_key
from tasks.contracts.errors import ArtifactCorruptError, ArtifactMissingError, DocumentConflictError, UserError
from tasks.contracts.route import Arm, ModelSignature, Route
from tests.adapters.conftest import KEEPS_DATA

REPEATING = b"the same weight again and again" * 100


@dataclass
class Store:
    """One store, opened as often as asked, and a hand that reaches around it."""

    open: Any
    read: Any
    overwrite: Any
    missing: str


@pytest.fixture(params=["local", "moto", KEEPS_DATA])
def store(request, tmp_path):
    if request.param == "local":

        def overwrite(key, data):
            (tmp_path / key).write_bytes(data)

        return Store(
            lambda kind, *more: getattr(local_store, f"Local{kind}")(tmp_path, *more),
            lambda key: (tmp_path / key).read_bytes(),
            overwrite,
            "STILLHOUSE_STORE",
        )
    s3 = request.getfixturevalue("s3_world")(request.param)
    return Store(
        lambda kind, *more: getattr(s3_store, f"S3{kind}")(s3.bucket(), *more),
        s3.raw,
        s3.overwrite,
        "STILLHOUSE_STORE_URL",
    )


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 40])
def test_put_and_get_return_the_same_bytes(store, data):
    reference = store.open("Artifacts").put(data)
    assert store.open("Artifacts").get(reference.digest) == data
    assert store.open("Artifacts").contains(reference.digest)
    assert store.read(artifact_key(reference.digest)) == data
    assert reference.size_bytes == len(data)


def test_get_names_the_remedy_when_nothing_is_there(store):
    artifacts = store.open("Artifacts")
    assert not artifacts.contains("0" * 64)
    with pytest.raises(ArtifactMissingError, match=store.missing):
        artifacts.get("0" * 64)


@pytest.mark.parametrize("damaged", [b"", b"a mode", b"a modem"])
def test_an_artifact_whose_bytes_changed_is_refused_and_repaired(store, damaged):
    artifacts = store.open("Artifacts")
    reference = artifacts.put(b"a model")
    store.overwrite(artifact_key(reference.digest), damaged)
    with pytest.raises(ArtifactCorruptError, match=reference.digest):
        artifacts.get(reference.digest)
    assert not artifacts.contains(reference.digest)
    assert not store.open("Artifacts").contains(reference.digest)
    artifacts.put(b"a model")
    assert store.open("Artifacts").get(reference.digest) == b"a model"


def test_either_form_is_read_when_the_setting_has_changed(store):
    plain, compressing = store.open("Artifacts"), store.open("Artifacts", "zstd")
    old, new = plain.put(REPEATING + b"old"), compressing.put(REPEATING + b"new")
    assert len(store.read(artifact_key(new.digest))) < len(REPEATING) / 10
    for artifacts in (plain, compressing):
        assert artifacts.contains(old.digest)
        assert artifacts.contains(new.digest)
        assert artifacts.get(old.digest) == REPEATING + b"old"
        assert artifacts.get(new.digest) == REPEATING + b"new"


@pytest.mark.parametrize("length", [0, 3, 20, -1])
def test_a_compressed_artifact_that_is_cut_is_repaired(store, length):
    artifacts = store.open("Artifacts", "zstd")
    reference = artifacts.put(REPEATING)
    key = artifact_key(reference.digest)
    store.overwrite(key, store.read(key)[:length])
    assert not artifacts.contains(reference.digest)
    artifacts.put(REPEATING)
    assert store.open("Artifacts").get(reference.digest) == REPEATING


def test_append_numbers_versions_and_latest_reads_the_newest(store):
    first, second = store.open("Documents"), store.open("Documents")
    assert first.latest("routes/digits") is None
    for version in range(12):
        writer = (first, second)[version % 2]
        assert writer.append("routes/digits", b"%d" % version, version).version == version + 1
        assert (first.latest("routes/digits").version, second.latest("routes/digits").data) == (
            version + 1,
            b"%d" % version,
        )


def test_append_refuses_a_version_when_another_writer_was_first(store):
    first, second = store.open("Documents"), store.open("Documents")
    first.append("routes/digits", b"{}", 0)
    for same_or_other in (b"{}", b"{1}"):
        with pytest.raises(DocumentConflictError, match="already has a version 1"):
            second.append("routes/digits", same_or_other, 0)
    assert second.latest("routes/digits").data == b"{}"


def test_append_refuses_a_gap_between_versions(store):
    with pytest.raises(DocumentConflictError, match="no version 3"):
        store.open("Documents").append("a", b"{}", 3)


def test_append_lets_exactly_one_of_many_writers_win(store):
    barrier, outcomes = threading.Barrier(6), []
    writers = [store.open("Documents") for _ in range(6)]

    def race(number):
        barrier.wait()
        try:
            writers[number].append("a", b"%d" % number, 0)
        except DocumentConflictError:
            outcomes.append(None)
        else:
            outcomes.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number in outcomes if number is not None]
    assert store.open("Documents").latest("a").data == b"%d" % winner


def test_names_lists_documents_by_prefix_and_a_document_may_lie_below_another(store):
    documents = store.open("Documents")
    for name in ("runs/b", "runs/a", "routes/a", "routes/a/b"):
        documents.append(name, name.encode(), 0)
    documents.append("runs/a", b"again", 1)
    assert documents.names("runs/") == ["runs/a", "runs/b"]
    assert documents.names() == ["routes/a", "routes/a/b", "runs/a", "runs/b"]
    assert documents.latest("routes/a").data == b"routes/a"


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../b", "", "A", "a//b"])
def test_a_document_name_that_leaves_the_store_is_refused(store, name):
    documents = store.open("Documents")
    with pytest.raises(UserError, match="not allowed"):
        documents.latest(name)
    with pytest.raises(UserError, match="not allowed"):
        documents.append(name, b"", 0)


def test_load_ignores_a_checkpoint_when_it_is_torn(store):
    checkpoints = store.open("Checkpoints")
    assert checkpoints.load("stage") is None
    checkpoints.save("stage", b"weights of epoch 1")
    checkpoints.save("stage", b"weights")
    assert store.open("Checkpoints").load("stage") == b"weights"
    store.overwrite(checkpoint_key("stage"), store.read(checkpoint_key("stage"))[:-1])
    assert checkpoints.load("stage") is None
    checkpoints.clear("stage")
    checkpoints.clear("stage")
    assert checkpoints.load("stage") is None


def test_write_replaces_a_record(store):
    records = store.open("Records")
    assert records.read("compress/abc") is None
    records.write("compress/abc", b"old")
    records.write("compress/abc", b"new")
    assert store.open("Records").read("compress/abc") == b"new"
    assert store.read("stages/compress/abc.json") == b"new"


def test_routes_and_acknowledgements_lie_in_the_same_store(store):
    routes = RouteStore(store.open("Documents"), store.open("Acknowledgements"))
    signature = ModelSignature(task="regression", input_shape=(4,), input_dtype="float32", class_names=())
    route = Route(model_name="digits", signature=signature, champion=Arm(digest="a" * 64, version=1))
    assert routes.publish(route, 0).version == 1
    assert routes.acknowledgements("digits") == []
    assert "none has renewed" in routes.why_unserved("digits", 1)
