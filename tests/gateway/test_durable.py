import os
import time

import pytest

from infra.gateway import durable
from infra.gateway.durable import ABANDONED_AFTER_S, publish_file, remove_abandoned, replace_file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_publish_file_says_so_and_changes_nothing_when_the_name_is_taken(tmp_path):
    path = tmp_path / "new" / "folder" / "a"
    assert publish_file(path, b"first") is True
    assert publish_file(path, b"second") is False
    assert path.read_bytes() == b"first"
    assert names(path.parent) == ["a"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_publish_file_knows_its_own_link_when_the_reply_was_lost(tmp_path, monkeypatch):
    real = os.link

    def link(source, target):
        real(source, target)
        raise FileExistsError  # what a repeated request is told

    monkeypatch.setattr(os, "link", link)
    assert publish_file(tmp_path / "a", b"once") is True
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("write", [replace_file, publish_file])
def test_a_file_that_cannot_be_placed_leaves_nothing_behind(tmp_path, monkeypatch, write):
    def refuse(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a", b"x")
    assert names(tmp_path) == []


def test_new_folders_are_synced_into_those_above_them(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "_sync_folder", synced.append)
    replace_file(tmp_path / "m" / "log" / "a", b"x")
    assert synced == [tmp_path, tmp_path / "m", tmp_path / "m" / "log"]


def test_a_file_where_a_folder_has_to_be_is_named(tmp_path):
    (tmp_path / "m").write_text("x")
    with pytest.raises(NotADirectoryError, match="m is a file where a folder has to be"):
        publish_file(tmp_path / "m" / "a", b"x")


def test_remove_abandoned_removes_what_is_old_and_bears_with_what_is_gone(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(b"")
    old = time.time() - ABANDONED_AFTER_S - 60
    os.utime(tmp_path / "old", (old, old))
    assert remove_abandoned([tmp_path / "gone", *tmp_path.iterdir()]) == 1
    assert names(tmp_path) == ["new"]
