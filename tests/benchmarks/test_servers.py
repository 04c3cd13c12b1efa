import sys

import psutil
import pytest

from benchmarks import servers
from tasks.contracts.errors import ServiceUnavailableError


def test_a_server_that_tells_no_address_in_time_is_ended_with_what_it_started(monkeypatch):
    monkeypatch.setattr(servers, "_TOLD_WITHIN_S", 1.0)
    before = set(psutil.Process().children(recursive=True))
    program = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    with (
        pytest.raises(ServiceUnavailableError, match="gave no address"),
        servers.serving("silent", [sys.executable, "-c", f"{program}time.sleep(60)"]),
    ):
        pytest.fail("it serves")
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_server_that_ends_without_an_address_is_reported():
    with (
        pytest.raises(ServiceUnavailableError, match="gave no address"),
        servers.serving("ended", [sys.executable, "-c", "pass"]),
    ):
        pytest.fail("it serves")


def test_a_server_is_known_by_the_port_that_it_tells_and_ends_with_the_block():
    program = "import time; print('http://127.0.0.1:4711', flush=True); time.sleep(60)"
    with servers.serving("telling", [sys.executable, "-c", program]) as server:
        assert server.port == 4711
        assert server.process.is_running()
    assert not server.process.is_running()


def test_cpu_seconds_counts_threads_that_do_not_lead_the_process():
    program = (
        "import threading, time\n"
        "def spin():\n"
        "    while time.thread_time() < 0.2: pass\n"
        "    print(time.thread_time(), flush=True)\n"
        "    time.sleep(60)\n"
        "print('http://127.0.0.1:4711', flush=True)\n"
        "threading.Thread(target=spin, daemon=True).start()\n"
        "time.sleep(60)\n"
    )
    with servers.serving("busy", [sys.executable, "-c", program]) as server:
        spent = float(server.process.stdout.readline())
        assert spent <= server.cpu_seconds() < spent + 1.0
