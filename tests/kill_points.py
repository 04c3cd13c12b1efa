"""Points at which a process is killed (SIGKILL), shared by the kill tables of promotion, rollout, reload and log.

A table runs an operation once to count its points. Then, for each of them, a process of its own runs the operation
and dies there, and others look at what it left and go on. Programs that fork import this, so it starts no thread.
"""

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

FILE_CALLS = ("mkdir", "open", "link", "rename", "replace", "unlink", "remove", "rmdir", "chmod", "fsync")
"""Functions of `os` that change files, beside `write`; opening counts only where it is for writing."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_AUDITED = {"os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.symlink"}
_RANDOM = re.compile(r"(\.staged-|\.removing-)\S*")


class Points:
    """Counts the points that this process reaches, and kills it at one of them."""

    def __init__(self, die_at=0):
        self.names = []
        self.die_at = die_at

    def reach(self, name):
        self.names.append(name)
        if len(self.names) == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name, function):
        """Return the function with a point before each call and one after it."""

        def call(*args, **kwargs):
            self.reach(f"before {name}")
            result = function(*args, **kwargs)
            self.reach(f"after {name}")
            return result

        return call


class Mortal:
    """Passes calls on; a method that changes something durable has a point before it and one after it."""

    def __init__(self, real, durable, points, kind=""):
        self._real, self._durable, self._points, self._kind = real, durable, points, kind

    def __getattr__(self, name):
        attribute = getattr(self._real, name)
        if name not in self._durable:
            return attribute
        return self._points.around(f"{self._kind}.{name}" if self._kind else name, attribute)


def make_files_mortal(points, root):
    """Put points around every call by which this process, from now to its end, changes a file below `root`.

    A write has one more, when half of the data are written. Python reports such calls by itself too (audit events):
    one that comes another way would have no point, and ends in an error.
    """
    root, own = os.path.realpath(root), threading.local()
    for name in FILE_CALLS:
        setattr(os, name, _pointed(points, root, own, name, getattr(os, name)))
    real_fdopen = os.fdopen

    def fdopen(descriptor, *args, **kwargs):
        file = real_fdopen(descriptor, *args, **kwargs)
        place = _below(root, _path_of(descriptor))
        return _MortalFile(file, points, place) if place and file.writable() else file

    def audit(event, args):
        if event not in _AUDITED and not (event == "open" and isinstance(args[2], int) and args[2] & _WRITING):
            return
        path = args[1] if event in ("os.link", "os.rename", "os.symlink") else args[0]
        if isinstance(path, int) or getattr(own, "called", False):
            return
        if _below(root, os.path.abspath(os.fsdecode(path))):
            raise RuntimeError(f"{event} {path} is no point of the table")

    os.fdopen = fdopen
    sys.addaudithook(audit)


class _MortalFile:
    """A file whose writes reach the system at once."""

    def __init__(self, real, points, place):
        self._real, self._points, self._place = real, points, place

    def __getattr__(self, name):
        return getattr(self._real, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._real.close()

    def write(self, data):
        half = len(data) // 2
        self._points.reach(f"before write {self._place}")
        self._real.write(data[:half])
        self._real.flush()
        self._points.reach(f"within write {self._place}")
        self._real.write(data[half:])
        self._real.flush()
        self._points.reach(f"after write {self._place}")
        return len(data)


def _pointed(points, root, own, name, real):
    def call(*args, **kwargs):
        place = _below(root, _changed(name, args, kwargs))
        if place is None:
            return real(*args, **kwargs)
        points.reach(f"before {name} {place}")
        own.called = True
        try:
            result = real(*args, **kwargs)
        finally:
            own.called = False
        points.reach(f"after {name} {place}")
        return result

    return call


def _changed(name, args, kwargs):
    """Return the absolute path of what a call of `os` changes, or None if it only reads."""
    if name == "open" and not (args[1] if len(args) > 1 else kwargs["flags"]) & _WRITING:
        return None
    if name == "fsync":
        return _path_of(args[0])
    path = os.fsdecode(args[1] if name in ("link", "rename", "replace") else args[0])
    folder = kwargs.get("dir_fd")
    return os.path.join(os.getcwd() if folder is None else _path_of(folder), path)


def _path_of(descriptor):
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _below(root, path):
    """Return the path relative to the root, without what is random in it, or None if it lies elsewhere."""
    if path is None or not path.startswith(root + os.sep):
        return None
    return _RANDOM.sub(r"\1", path[len(root) + 1 :])


def in_child(work):
    """Run `work` in a forked process and return its exit code (negative: the signal)."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            code = work() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def answer_of(work):
    """Run `work` in a fresh process, as a later start would, and return its answer."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 3
        try:
            os.close(reading)
            with open(writing, "w") as out:
                json.dump(work(), out)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading) as received:
        text = received.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, text
    return json.loads(text)


def killed_at(work):
    """Run `work`, which has to die by SIGKILL, in a process of its own."""
    code = in_child(work)
    assert code == -signal.SIGKILL, f"it was to be killed and ended with {code}"


def as_path(text):
    """Return a command-line argument as the absolute path without links that points are told by."""
    return Path(os.path.realpath(text))
