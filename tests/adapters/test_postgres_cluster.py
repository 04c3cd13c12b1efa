"""What lies on disk before a server runs; tests/engines/test_up_and_down.py has the server."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from tasks.adapters.postgres_cluster import PostgresCluster
from tasks.contracts.errors import ServiceUnavailableError, UserError

INITDB = """#!/bin/sh
echo "$*" > {seen}/arguments
cat > {seen}/password
while [ "$1" != --pgdata ]; do shift; done
mkdir "$2" && echo 15 > "$2/PG_VERSION"
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Programs that stand in for those of PostgreSQL, and the user as somebody who may run them."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in {
        "initdb": INITDB.format(seen=folder),
        "postgres": "#!/bin/sh\necho 'postgres (PostgreSQL) 15.18'\n",
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(tmp_path).st_uid or 1000)
    return folder


@pytest.fixture
def home():
    """A home whose path is short enough for a socket below it, wherever pytest keeps its own."""
    with tempfile.TemporaryDirectory(prefix="home-") as folder:
        yield Path(folder) / "home"


def test_make_keeps_passwords_from_others_and_from_every_argument(programs, home):
    cluster = PostgresCluster(home)
    cluster.make()

    own = cluster.own
    assert own.is_made
    for path, mode in ((own.password_file, 0o600), (own.folder, 0o700), (own.socket_folder, 0o700)):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
    passwords = dict(line.split(":")[3:] for line in own.password_file.read_text().splitlines())
    assert set(passwords) == {"postgres", "ledger", "mlflow", "prefect"}
    assert (programs / "password").read_text() == passwords["postgres"]
    told = (programs / "arguments").read_text() + " ".join(cluster.command)
    assert not [password for password in passwords.values() if password in told]
    assert "listen_addresses=" in cluster.command


def test_make_changes_nothing_when_all_is_there(programs, home):
    cluster = PostgresCluster(home)
    cluster.make()
    before = cluster.own.password_file.read_bytes(), cluster.own.socket_folder
    (programs / "initdb").write_text("#!/bin/sh\nexit 1\n")

    PostgresCluster(home).make()

    assert (cluster.own.password_file.read_bytes(), cluster.own.socket_folder) == before


def test_make_leaves_no_cluster_that_was_cut_off(programs, home):
    whole = (programs / "initdb").read_text()
    (programs / "initdb").write_text(whole + "echo no space left >&2; exit 1\n")
    with pytest.raises(ServiceUnavailableError, match=r"cannot make a cluster in .*no space left"):
        PostgresCluster(home).make()
    assert not PostgresCluster(home).own.is_made

    (programs / "initdb").write_text(whole)
    cluster = PostgresCluster(home)
    (cluster.own.folder / "new-killed").mkdir()
    cluster.make()

    assert {path.name for path in cluster.own.folder.iterdir()} == {"cluster", "pgpass", "socket", "socket-folder"}


def test_make_finds_a_private_place_for_the_socket_when_the_homes_path_is_too_long(programs, tmp_path):
    home = tmp_path / ("a-long-name-" * 8)
    cluster = PostgresCluster(home)
    cluster.make()
    folder = cluster.own.socket_folder
    try:
        assert not folder.is_relative_to(home)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(os.fsencode(folder / ".s.PGSQL.5432")) <= 100
    finally:
        folder.rmdir()
    cluster.make()  # as after its removal by what cleans folders for temporary files
    assert cluster.own.socket_folder != folder
    cluster.own.socket_folder.rmdir()


def test_a_cluster_without_its_passwords_is_refused(programs, tmp_path):
    cluster = PostgresCluster(tmp_path / "home")
    cluster.make()
    cluster.own.password_file.unlink()
    with pytest.raises(UserError, match=r"pgpass is missing.*restore"):
        cluster.make()
