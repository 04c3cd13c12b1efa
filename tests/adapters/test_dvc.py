import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.adapters import dvc, dvc_restore
from tasks.adapters.dvc_remote import remote_of
from tasks.adapters.dvc_repository import fetch_folder
from tasks.adapters.locks import FileLocks
from tasks.contracts.errors import DataError, InfrastructureError, ServiceUnavailableError
from tasks.datasets.revision import folder_revision
from tasks.runtime.settings import Settings

pytestmark = pytest.mark.filterwarnings(r"ignore:_NoneStep\.value will soon raise:DeprecationWarning:dvc")


def materialise(folder):
    (folder / "rows").mkdir(parents=True)
    (folder / "rows" / "a.bin").write_bytes(b"shipped")


def never(folder):
    pytest.fail("rebuilt although the remote has the rows")


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "project").mkdir()
    return Settings(home=tmp_path / "home", project=tmp_path / "project")


@pytest.fixture
def locks(tmp_path):
    return FileLocks(tmp_path / "locks")


@pytest.fixture
def data(settings):
    return settings.project / "data"


def add(settings, locks, **files):
    """Version a `data/` with `files` and return its revision."""
    for name, content in files.items():
        path = settings.project / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return dvc.add(settings, locks).revision


def test_folder_revision_equals_dvcs_own_hash_when_names_are_awkward(settings, locks, data):
    names = ["b.txt", "a b-é.txt", "B.TXT", "sub/deep/x", "sub-1/x", "sub.txt", ".hidden", "sub/.git/config", "empty"]

    revision = add(settings, locks, **{name: f"content of {name}" * (name != "empty") for name in names})

    assert folder_revision(data) == revision == dvc.tracked_revision(settings.project)


def test_status_tells_equal_modified_missing_and_untracked_apart(settings, locks, data):
    assert dvc.status(settings).state == "missing"
    data.mkdir()
    (data / "a").write_text("1")
    assert dvc.status(settings).state == "untracked"
    revision = add(settings, locks)
    found = dvc.status(settings, ask_remote=True)
    assert (found.state, found.tracked, found.num_files, found.remote_has_it) == ("equal", revision, 1, False)
    (data / "a").write_text("2")
    assert dvc.status(settings).state == "modified"


def test_status_heeds_dvcignore_like_dvc_does(settings, locks, data):
    revision = add(settings, locks, a="1")
    (settings.project / ".dvcignore").write_text("*.tmp\n")
    (data / "scratch.tmp").write_text("2")

    assert dvc.status(settings).state == "equal"
    assert dvc.ensure_data(settings, locks, never) == revision


def test_ensure_data_does_nothing_and_imports_no_dvc_when_data_is_what_data_dvc_says(settings, locks):
    revision = add(settings, locks, a="1")
    code = (
        "import sys; from pathlib import Path; from tasks.adapters.dvc import ensure_data;"
        "from tasks.adapters.locks import FileLocks; from tasks.runtime.settings import Settings;"
        f"s = Settings(home=Path({str(settings.home)!r}), project=Path({str(settings.project)!r}));"
        "print(ensure_data(s, FileLocks(s.home), None), sorted({'dvc', 'botocore', 'pandas'} & set(sys.modules)))"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert answer == f"{revision} []\n"


def test_ensure_data_names_both_remedies_when_data_was_changed(settings, locks, data):
    add(settings, locks, a="1")
    (data / "a").write_text("2")

    with pytest.raises(DataError, match=r"differs from data\.dvc.*stillhouse data add.*stillhouse data pull"):
        dvc.ensure_data(settings, locks, never)
    assert (data / "a").read_text() == "2"


def test_ensure_data_asks_to_add_when_data_is_not_tracked(settings, locks, data):
    data.mkdir()

    with pytest.raises(DataError, match=r"has no data\.dvc.*stillhouse data add"):
        dvc.ensure_data(settings, locks, never)


def test_ensure_data_rebuilds_to_the_tracked_revision_when_no_remote_has_it(settings, locks, data):
    revision = dvc.ensure_data(settings, locks, materialise)
    assert dvc.tracked_revision(settings.project) == revision
    shutil.rmtree(data)
    shutil.rmtree(settings.project / ".dvc" / "cache")

    assert dvc.ensure_data(settings, locks, materialise) == revision
    assert (data / "rows" / "a.bin").read_bytes() == b"shipped"


def test_ensure_data_pulls_from_the_remote_rather_than_rebuild(settings, locks, data):
    revision = add(settings, locks, **{"a": "1", "sub/b": "2"})
    assert dvc.push(settings, locks).remote == str(settings.home / "dvc-remote")
    assert dvc.status(settings, ask_remote=True).remote_has_it
    shutil.rmtree(data)
    shutil.rmtree(settings.project / ".dvc" / "cache")

    assert dvc.ensure_data(settings, locks, never) == revision
    assert (data / "sub" / "b").read_text() == "2"
    (data / "a").write_text("still writable")


def test_ensure_data_says_where_the_rows_could_be_when_nothing_has_them(settings, locks, data):
    add(settings, locks, a="mine")
    shutil.rmtree(data)
    shutil.rmtree(settings.project / ".dvc" / "cache")

    with pytest.raises(DataError, match=r"does not have it.*STILLHOUSE_DVC_REMOTE"):
        dvc.ensure_data(settings, locks, materialise)
    assert not data.exists()


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def unreachable(settings, monkeypatch):
    """The same project with an S3 remote behind a port that nobody listens on."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return settings.model_copy(update={"dvc_remote": "s3://nowhere/rows"})


def test_ensure_data_rebuilds_when_the_remote_is_unreachable(settings, locks, data, monkeypatch, caplog):
    revision = dvc.ensure_data(settings, locks, materialise)
    shutil.rmtree(data)
    shutil.rmtree(settings.project / ".dvc" / "cache")

    assert dvc.ensure_data(unreachable(settings, monkeypatch), locks, materialise) == revision
    assert "rebuilt from the shipped data sets instead" in caplog.text


def test_ensure_data_names_the_remote_and_setting_when_only_it_could_have_the_rows(settings, locks, data, monkeypatch):
    add(settings, locks, a="mine")
    shutil.rmtree(data)
    shutil.rmtree(settings.project / ".dvc" / "cache")

    with pytest.raises(ServiceUnavailableError, match=r"s3://nowhere/rows.*STILLHOUSE_DVC_REMOTE"):
        dvc.ensure_data(unreachable(settings, monkeypatch), locks, materialise)
    assert not data.exists()


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def test_ensure_data_leaves_nothing_partial_when_a_pull_is_cut(settings, locks, data, monkeypatch):
    revision = add(settings, locks, a="1", b="2", c="3")
    dvc.push(settings, locks)
    shutil.rmtree(data)
    copied, copy = [], shutil.copyfile

    def copy_two_files(source, target):
        if len(copied) == 2:
            raise Killed
        copied.append(target)
        return copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("tasks.adapters.dvc_repository.shutil.copyfile", copy_two_files)
        with pytest.raises(Killed):
            dvc.ensure_data(settings, locks, never)
    assert not data.exists()
    left_over = settings.project / ".dvc" / "tmp" / f"{dvc_restore._STAGING_PREFIX}x"  # what SIGKILL would leave
    left_over.mkdir()

    assert dvc.ensure_data(settings, locks, never) == revision
    assert not left_over.exists()


def test_fetch_folder_notices_when_the_files_are_other_ones(settings, locks, data, tmp_path, monkeypatch):
    revision = add(settings, locks, a="1")
    monkeypatch.setattr("tasks.adapters.dvc_repository.shutil.copyfile", lambda _, target: Path(target).write_text("9"))

    with pytest.raises(ServiceUnavailableError, match="are damaged"):
        fetch_folder(settings.project, remote_of(settings), revision, tmp_path / "staging")


def test_ensure_data_is_an_infrastructure_error_when_the_disk_refuses(settings, locks, data):
    def full(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(InfrastructureError, match="No space left on device"):
        dvc.ensure_data(settings, locks, full)
    assert not data.exists()


def test_pull_keeps_a_changed_folder_unless_forced(settings, locks, data):
    revision = add(settings, locks, a="1")
    (data / "a").write_text("changed")
    (data / "new").write_text("mine")

    with pytest.raises(DataError, match="differs"):
        dvc.pull(settings, locks, never)
    assert (data / "new").exists()
    pulled = dvc.pull(settings, locks, never, force=True)  # from DVC's cache: nothing was pushed

    assert (pulled.action, pulled.revision) == ("pulled", revision)
    assert [path.name for path in data.iterdir()] == ["a"]
    assert dvc.pull(settings, locks, never).action == "nothing"


def test_pull_asks_to_add_when_nothing_is_tracked(settings, locks):
    with pytest.raises(DataError, match="stillhouse data add"):
        dvc.pull(settings, locks, never)


def test_push_refuses_rows_that_have_no_version(settings, locks, data):
    with pytest.raises(DataError, match="nothing to push"):
        dvc.push(settings, locks)
    add(settings, locks, a="1")
    (data / "a").write_text("2")
    with pytest.raises(DataError, match="stillhouse data add"):
        dvc.push(settings, locks)


def test_add_says_so_when_nothing_changed_or_nothing_is_there(settings, locks, data):
    with pytest.raises(DataError, match="missing or empty"):
        dvc.add(settings, locks)
    add(settings, locks, a="1")
    assert dvc.add(settings, locks).action == "nothing"
    (data / "a").write_text("2")
    assert dvc.add(settings, locks).action == "added"


@pytest.mark.parametrize("text", ["", "outs: []", "outs:\n- md5: abc", "outs:\n- path: data", "{", "outs:\n- md5: 7"])
def test_tracked_revision_names_the_file_when_it_is_not_dvcs(tmp_path, text):
    (tmp_path / "data.dvc").write_text(text)

    with pytest.raises(DataError, match=r"data\.dvc"):
        dvc.tracked_revision(tmp_path)


def test_remote_of_prefers_the_setting_then_the_checkout_then_home(settings):
    assert remote_of(settings).url == str(settings.home / "dvc-remote")
    (settings.project / ".dvc").mkdir()
    (settings.project / ".dvc" / "config").write_text(
        "[core]\n    remote = origin\n['remote \"origin\"']\n    url = /x\n"
    )
    assert remote_of(settings).from_checkout
    chosen = remote_of(settings.model_copy(update={"dvc_remote": "https://me:secret@host/rows"}))
    assert chosen.shown == "https://host/rows"
    assert remote_of(settings.model_copy(update={"dvc_remote": "../elsewhere"})).url == str(
        settings.project.parent / "elsewhere"
    )


def test_push_and_pull_use_the_remote_that_the_checkout_names(settings, locks, data, tmp_path):
    revision = add(settings, locks, a="1")
    (settings.project / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = true\n    remote = origin\n['remote \"origin\"']\n    url = {tmp_path / 'origin'}\n"
    )

    dvc.push(settings, locks)

    assert (tmp_path / "origin" / "files" / "md5" / revision[:2] / revision[2:]).is_file()
    shutil.rmtree(data)
    shutil.rmtree(settings.project / ".dvc" / "cache")
    assert dvc.ensure_data(settings, locks, never) == revision


def test_remote_of_lies_in_the_bucket_and_knows_its_server_and_key_when_one_place_is_named(settings):
    in_bucket = {
        "bucket_url": "s3://models/team",
        "s3_endpoint": "http://127.0.0.1:9",
        "s3_region": "eu-central-1",
        "s3_encryption": "aws:kms",
        "s3_kms_key": "our-key",
    }
    remote = remote_of(settings.model_copy(update=in_bucket))
    assert remote.url == "s3://models/team/dvc"
    assert remote.configure({"core": {}})["remote"]["stillhouse"] == {
        "url": "s3://models/team/dvc",
        "connect_timeout": 5,
        "read_timeout": 60,
        "endpointurl": "http://127.0.0.1:9",
        "region": "eu-central-1",
        "sse": "aws:kms",
        "sse_kms_key_id": "our-key",
    }
    elsewhere = remote_of(settings.model_copy(update=in_bucket | {"dvc_remote": "https://host/rows"}))
    assert elsewhere.configure({"core": {}})["remote"]["stillhouse"] == {"url": "https://host/rows"}
