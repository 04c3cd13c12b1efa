import pytest

from tasks.adapters.postgres_programs import find_programs
from tasks.contracts.errors import UserError


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put programs of a version into a folder."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))

    def call(folder, version, name="postgres"):
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        for program in ("initdb", name):
            (place / program).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
            (place / program).chmod(0o755)
        return place

    return call


def test_find_programs_takes_the_path_first_and_then_the_newest(tmp_path, install):
    install("usr/lib/postgresql/9/bin", "9.6")
    newest = install("usr/lib/postgresql/17/bin", "17.2 (Debian 17.2-1)")
    assert find_programs(root=tmp_path).folder == newest
    on_path = install("path", "16.1")
    found = find_programs(root=tmp_path)
    assert (found.folder, found.version) == (on_path, 16)


def test_find_programs_takes_the_version_that_made_the_cluster(tmp_path, install):
    install("usr/lib/postgresql/17/bin", "17.2")
    older = install("usr/lib/postgresql/15/bin", "15.18")
    assert find_programs(15, root=tmp_path).folder == older
    with pytest.raises(UserError, match=r"PostgreSQL 16, which made the cluster.*found 17 in .*15 in "):
        find_programs(16, root=tmp_path)


def test_find_programs_asks_pg_config_last(tmp_path, install):
    elsewhere = install("opt/own/bin", "17.0")
    (tmp_path / "path").mkdir()
    config = tmp_path / "path" / "pg_config"
    config.write_text(f"#!/bin/sh\necho {elsewhere}\n")
    config.chmod(0o755)
    assert find_programs(root=tmp_path).folder == elsewhere


def test_find_programs_says_where_it_looked_and_what_to_install_when_there_are_none(tmp_path, install):
    (tmp_path / "usr/lib/postgresql/15/bin").mkdir(parents=True)  # the clients alone
    with pytest.raises(UserError, match=r"not installed: looked in PATH.*found none.*apt-get install postgresql"):
        find_programs(root=tmp_path)
