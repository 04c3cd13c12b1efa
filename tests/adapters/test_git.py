import subprocess

import pytest

from tasks.adapters.git import commit_file
from tasks.contracts.errors import UserError


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.org")
    git(tmp_path, "init", "--quiet")
    (tmp_path / "data.dvc").write_text("one")
    return tmp_path


def test_commit_file_commits_that_file_alone_and_once(checkout):
    (checkout / "other").write_text("staged by somebody")
    git(checkout, "add", "other")

    for _ in range(2):
        commit_file(checkout / "data.dvc", "Add rows")

    assert git(checkout, "log", "--format=%s", "--name-only").split() == ["Add", "rows", "data.dvc"]
    assert git(checkout, "status", "--porcelain") == "A  other\n"


def test_commit_file_says_why_when_there_is_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "data.dvc").write_text("one")
    with pytest.raises(UserError, match=r"data\.dvc cannot be committed.*by hand"):
        commit_file(tmp_path / "data.dvc", "Add rows")
