"""What the log promises when its process is killed: see docs/gateway.md."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.gateway.log_kills import REQUESTS, ROWS, TABLES, TURNS, request_ids

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "log_kills.py"
KEPT_HOURS = ["10", "12"]
"""Of those at 6, 8, 10 and 12 o'clock when all since 11 is to be kept: rows may lie in a folder of a later hour."""
LOGGED = {("m", "predictions"), ("n", "predictions"), ("m", "feedback"), ("m", "inputs")}


def run(*arguments, before=()):
    command = [*before, sys.executable, str(PROGRAM), *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def turns_in(found, model, log):
    """Return the turns whose rows are all there, each once; a turn of which only some are, or twice, is an error."""
    if log == "inputs":
        ambiguous, distinct, raw = found["rows"][f"{model}/inputs"]
        assert (ambiguous, raw) == (0, distinct)
        assert raw % (REQUESTS * ROWS) == 0
        return raw // (REQUESTS * ROWS)
    rows = {(request_id, row): times for request_id, row, times in found["rows"][f"{model}/{log}"]}
    assert set(rows.values()) <= {1}, "no row is doubled"
    wanted = [{(name, row) for name in request_ids(turn) for row in range(ROWS)} for turn in range(TURNS + 1)]
    whole = [turn for turn in wanted if turn <= set(rows)]
    assert len(rows) == len(whole) * REQUESTS * ROWS, "a segment is seen whole or not at all"
    return len(whole)


def hold_to_promise(table, logs=tuple(TABLES)):
    """Check each point: what was counted as written is there, nothing is torn or doubled, and all goes on."""
    for point in table["points"]:
        at, left, healed = point["point"], point["left"], point["healed"]
        told = Counter(log for log, _ in point["told"])
        for model, log in LOGGED:
            before = turns_in(left, model, log)
            assert before >= told[log], f"{log} of {model} lost what was counted as written, killed {at}"
            assert before <= told[log] + (log in logs), at
            assert turns_in(healed, model, log) == before + 1, f"{log} of {model} does not go on, killed {at}"
        assert left["left"] in ([], [".staged-"]), f"more than one unfinished file, killed {at}"
        assert healed["left"] == [], at


def report(name, table):
    calls = Counter(point["point"].split()[1] for point in table["points"])
    print(f"\n{name}: killed at {len(table['points'])} points: {dict(calls)}")


def test_labels_that_count_as_written_outlast_a_kill_around_each_write_and_link(tmp_path):
    table = run("table", "write-labels", tmp_path, "write", "link")
    report("labels", table)
    assert len(table["points"]) == 3 + 2
    hold_to_promise(table, ("feedback",))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_log_keeps_its_promise_when_killed_at_any_call_that_changes_a_file(tmp_path):
    table = run("table", "write", tmp_path)
    report("log", table)
    assert [point["point"] for point in table["points"]] == table["names"]
    segments = TURNS * len(LOGGED)
    calls = Counter(tuple(name.split()[:2]) for name in table["names"])
    assert calls["within", "write"] == calls["after", "link"] == segments
    for name in ("open", "fsync", "chmod", "link", "unlink", "mkdir"):
        assert calls["before", name] >= len(LOGGED), name
    hold_to_promise(table)
    assert {turns_in(table["end"], model, log) for model, log in LOGGED} == {TURNS}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_hour_is_removed_whole_or_not_at_all_when_retention_is_killed_at_any_call(tmp_path):
    table = run("table", "prune", tmp_path)
    report("retention", table)
    kept = table["end"]["hours"]
    assert kept["predictions"] == kept["feedback"]
    assert list(kept["predictions"]) == KEPT_HOURS
    assert table["end"]["left"] == []
    for point in table["points"]:
        for log, hours in point["left"]["hours"].items():
            assert set(hours.values()) == {2}, f"half an hour of {log} was seen, killed {point['point']}"
            assert set(hours) >= set(kept[log]), point["point"]
        assert point["healed"] == table["end"], point["point"]
    calls = Counter(tuple(name.split()[:2]) for name in table["names"])
    assert calls["before", "rename"] == calls["after", "rmdir"] > 0
    assert calls["before", "unlink"] == 2 * calls["before", "rename"]


KERNEL = {
    "mkdir": "mkdir", "mkdirat": "mkdir", "open": "open", "openat": "open", "link": "link", "linkat": "link",
    "rename": "rename", "renameat": "rename", "renameat2": "rename", "unlink": "unlink", "rmdir": "rmdir",
    "unlinkat": "unlink", "chmod": "chmod", "fchmodat": "chmod", "fsync": "fsync", "fdatasync": "fsync",
    "write": "write", "writev": "write", "pwrite64": "write",
    "ftruncate": "truncate", "truncate": "truncate", "symlink": "symlink", "symlinkat": "symlink",
}  # fmt: skip
"""System calls that change files, and the points that stand for them."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace tells what the kernel sees")
@pytest.mark.parametrize("operation", ["write", "prune"])
def test_points_are_all_the_changes_that_the_kernel_sees(tmp_path, operation):
    trace, alive, counted = tmp_path / "trace", tmp_path / "alive", tmp_path / "counted"
    alive.mkdir(), counted.mkdir()
    calls = ",".join(KERNEL)
    tracing = ["strace", "-f", "-y", "-qq", "-s", "0", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(trace)]
    run("prepare", operation, alive)
    run("run", operation, alive, before=tracing)
    names = run("table", operation, counted, "none")["names"]
    assert kernel_calls(trace, alive / "start") == Counter(
        _kind(name.split()[1]) for name in names if name.startswith("before")
    )


def _kind(call):
    return {"replace": "rename", "remove": "unlink"}.get(call, call)


def kernel_calls(trace, root):
    """Count the calls that change something below `root`, by the names of their points."""
    found = Counter()
    for line in trace.read_text().splitlines():
        call = re.search(r"^\d+\s+(\w+)\((.*)", line)
        if call is None or str(root) + os.sep not in call[2]:
            continue
        name, arguments = KERNEL[call[1]], call[2]
        if name == "open" and not re.search(r"O_WRONLY|O_RDWR|O_CREAT", arguments):
            continue
        found["rmdir" if "AT_REMOVEDIR" in arguments else name] += 1
    return found
