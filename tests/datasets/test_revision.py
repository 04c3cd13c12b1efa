import hashlib

import pytest

from tasks.contracts.errors import DataError
from tasks.datasets.revision import file_revision, folder_revision


def test_file_revision_is_the_md5_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"rows")

    assert file_revision(tmp_path / "a") == hashlib.md5(b"rows").hexdigest()


def test_file_revision_names_the_file_when_it_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.csv cannot be read"):
        file_revision(tmp_path / "nothing.csv")


def test_folder_revision_moves_with_content_and_names_but_not_with_time(tmp_path):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_bytes(b"1")
    first = folder_revision(folder)

    (folder / "sub" / "a").touch()
    assert folder_revision(folder) == first
    (folder / "sub" / "a").rename(folder / "sub" / "b")
    renamed = folder_revision(folder)
    (folder / "sub" / "b").write_bytes(b"2")
    assert len({first, renamed, folder_revision(folder)}) == 3
