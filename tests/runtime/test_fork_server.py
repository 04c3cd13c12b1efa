import os
import socket
import threading
from pathlib import Path

import pytest

from tasks.runtime import fork_server


@pytest.fixture
def server() -> fork_server._Server:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return fork_server._Server(theirs, fork_server.source_stamps(fork_server._SOURCE))


def test_it_refuses_to_fork_once_source_has_changed(
    server: fork_server._Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fork_server, "num_threads", lambda: 1)
    assert server._refusal() == ""
    monkeypatch.setattr(fork_server, "_SOURCE", tmp_path)
    assert server._refusal() == "stale"


def test_it_refuses_to_fork_while_it_has_threads(server: fork_server._Server) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert "a process with threads must not be forked" in server._refusal()
    done.set()
    thread.join()


def test_source_stamps_tell_an_edit_a_new_file_and_a_removed_one(tmp_path: Path) -> None:
    source = tmp_path / "package" / "module.py"
    source.parent.mkdir()
    source.write_text("one")
    os.utime(source, ns=(1, 1))
    before = fork_server.source_stamps(tmp_path)
    os.utime(source, ns=(2, 2))
    edited = fork_server.source_stamps(tmp_path)
    source.with_name("more.py").write_text("")
    more = fork_server.source_stamps(tmp_path)
    source.unlink()
    assert (
        len({str(sorted(stamps.items())) for stamps in (before, edited, more, fork_server.source_stamps(tmp_path))})
        == 4
    )


def test_nothing_that_it_imports_starts_a_thread_or_is_named_wrongly() -> None:
    import importlib.util

    assert "onnxruntime" not in fork_server.IMPORTS
    own = [name for name in fork_server.IMPORTS if name.startswith("tasks.")]
    assert [name for name in own if importlib.util.find_spec(name) is None] == []
