import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.adapters import local_store
from tasks.adapters.local_store import LocalArtifacts, LocalCheckpoints, LocalDocuments, LocalRecords
from tasks.contracts.artifact import artifact_key
from tasks.contracts.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    DocumentConflictError,
    InfrastructureError,
    UserError,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.binary(max_size=2000))
def test_put_and_get_return_the_same_bytes(tmp_path: Path, data: bytes) -> None:
    store = LocalArtifacts(tmp_path)
    reference = store.put(data)
    assert store.get(reference.digest) == data
    assert reference.size_bytes == len(data)


def test_get_refuses_an_artifact_when_its_bytes_changed(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path)
    reference = store.put(b"a model")
    (tmp_path / artifact_key(reference.digest)).write_bytes(b"a mode")
    assert not store.contains(reference.digest)
    with pytest.raises(ArtifactCorruptError, match=reference.digest):
        store.get(reference.digest)


def test_put_repairs_an_artifact_when_the_stored_one_is_truncated(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path)
    reference = store.put(b"a model")
    (tmp_path / artifact_key(reference.digest)).write_bytes(b"")
    store.put(b"a model")
    assert store.get(reference.digest) == b"a model"


def test_get_names_the_remedy_when_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError, match="STILLHOUSE_STORE"):
        LocalArtifacts(tmp_path).get("0" * 64)


def test_put_leaves_nothing_behind_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local_store.os, "fsync", full)
    with pytest.raises(InfrastructureError, match="No space left on device"):
        LocalArtifacts(tmp_path).put(b"a model")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


REPEATING = b"the same weight again and again" * 100


def test_put_stores_fewer_bytes_under_the_digest_of_the_raw_ones_when_it_compresses(tmp_path: Path) -> None:
    store = LocalArtifacts(tmp_path, "zstd")
    reference = store.put(REPEATING)
    assert reference == LocalArtifacts(tmp_path / "plain").put(REPEATING)
    assert (tmp_path / artifact_key(reference.digest)).stat().st_size < len(REPEATING) / 10
    assert store.get(reference.digest) == REPEATING
    assert store.contains(reference.digest)


def test_get_reads_either_form_when_the_setting_has_changed(tmp_path: Path) -> None:
    plain, compressing = LocalArtifacts(tmp_path), LocalArtifacts(tmp_path, "zstd")
    old, new = plain.put(b"old" * 100), compressing.put(b"new" * 100)
    for store in (plain, compressing):
        assert store.get(old.digest) == b"old" * 100
        assert store.get(new.digest) == b"new" * 100


def test_put_keeps_a_whole_artifact_as_it_lies_when_the_setting_has_changed(tmp_path: Path) -> None:
    reference = LocalArtifacts(tmp_path).put(REPEATING)
    LocalArtifacts(tmp_path, "zstd").put(REPEATING)
    assert (tmp_path / artifact_key(reference.digest)).read_bytes() == REPEATING


@pytest.mark.parametrize("length", [0, 3, 20, -1])
def test_put_repairs_a_compressed_artifact_when_it_is_truncated(tmp_path: Path, length: int) -> None:
    store = LocalArtifacts(tmp_path, "zstd")
    reference = store.put(REPEATING)
    path = tmp_path / artifact_key(reference.digest)
    path.write_bytes(path.read_bytes()[:length])
    assert not store.contains(reference.digest)
    with pytest.raises(ArtifactCorruptError, match=reference.digest):
        store.get(reference.digest)
    store.put(REPEATING)
    assert store.get(reference.digest) == REPEATING


def test_append_refuses_a_version_when_another_writer_was_first(tmp_path: Path) -> None:
    first, second = LocalDocuments(tmp_path), LocalDocuments(tmp_path)
    first.append("routes/digits", b"{}", 0)
    with pytest.raises(DocumentConflictError):
        second.append("routes/digits", b"{1}", 0)
    latest = second.latest("routes/digits")
    assert latest is not None
    assert (latest.version, latest.data) == (1, b"{}")


def test_append_refuses_a_gap_between_versions(tmp_path: Path) -> None:
    with pytest.raises(DocumentConflictError, match="no version 3"):
        LocalDocuments(tmp_path).append("a", b"{}", 3)


def test_append_lets_exactly_one_of_many_processes_win(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tasks.adapters.local_store import LocalDocuments\n"
        "from tasks.contracts.errors import DocumentConflictError\n"
        "sys.stdin.readline()\n"
        "try: LocalDocuments(Path(sys.argv[1])).append('a', sys.argv[2].encode(), 0)\n"
        "except DocumentConflictError: sys.exit(7)\n"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(number)], stdin=subprocess.PIPE)
        for number in range(5)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"\n")
        racer.stdin.flush()
    codes = [racer.wait(timeout=60) for racer in racers]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
    assert sorted(codes) == [0, 7, 7, 7, 7]


def test_names_lists_documents_and_not_their_staged_files(tmp_path: Path) -> None:
    documents = LocalDocuments(tmp_path)
    documents.append("runs/b", b"{}", 0)
    documents.append("runs/a", b"{}", 0)
    documents.append("routes/a", b"{}", 0)
    (tmp_path / "documents" / "runs" / "a" / ".staged-x").write_bytes(b"")
    assert documents.names("runs/") == ["runs/a", "runs/b"]


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../b", "", "A", "a//b"])
def test_latest_refuses_a_name_that_leaves_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="not allowed"):
        LocalDocuments(tmp_path).latest(name)


def test_load_ignores_a_checkpoint_when_it_is_torn(tmp_path: Path) -> None:
    checkpoints = LocalCheckpoints(tmp_path)
    checkpoints.save("stage", b"weights")
    assert checkpoints.load("stage") == b"weights"
    (file,) = (tmp_path / "checkpoints").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert checkpoints.load("stage") is None
    checkpoints.clear("stage")
    checkpoints.clear("stage")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_write_replaces_a_record_and_keeps_the_old_one_when_the_writer_dies(tmp_path: Path) -> None:
    records = LocalRecords(tmp_path)
    records.write("compress/abc", b"old")
    script = (
        "import os, sys; from pathlib import Path; from tasks.adapters import local_store\n"
        "local_store.os.replace = lambda *_: os._exit(9)\n"
        "local_store.LocalRecords(Path(sys.argv[1])).write('compress/abc', b'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 9
    assert records.read("compress/abc") == b"old"
    records.write("compress/abc", b"new")
    assert records.read("compress/abc") == b"new"
    assert records.read("compress/other") is None


def test_write_explains_itself_when_the_folder_is_read_only(tmp_path: Path) -> None:
    blocked = tmp_path / "stages"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(InfrastructureError, match="STILLHOUSE_STORE"):
        LocalRecords(tmp_path).write("a/b", b"x")
    assert os.listdir(tmp_path) == ["stages"]
