import os
import subprocess
import sys

import pytest

from infra.engines.ending import end_services
from tasks.runtime.processes import identify, is_running, marked, myself
from tasks.runtime.service_state import MARK, ServicesState, ServiceState, services_file, write_state
from tasks.runtime.settings import Settings

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]).wait()"

SPAWNER = f"""
import signal, subprocess, sys, time
def spawn(*_):
    subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE).stdout.readline()
    sys.exit()
signal.signal(signal.SIGTERM, spawn)
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


@pytest.fixture
def start():
    """Start a program as a service of a supervisor that was killed."""
    children = []

    def call(name, code, **fields):
        mark = f"{name} of {os.getpid()}"
        child = subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | {MARK: mark}, stdout=subprocess.PIPE, start_new_session=True
        )
        children.append(child)
        child.stdout.readline()
        known = {
            "process": identify(child.pid), "address": "", "page": "", "log": f"{name}.log", "stop_signal": 15,
            "stop_within_s": 0.3,
        }  # fmt: skip
        return ServiceState(name=name, mark=mark, **known | fields)

    yield call
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def left_behind(*services):
    gone = myself().model_copy(update={"started": "in another life"})
    return ServicesState(supervisor=gone, ready=True, services=services)


def test_end_services_ends_what_a_killed_supervisor_left_in_reverse_order_with_all_it_started(settings, start):
    prompt, stubborn, said = (
        start("mlflow", "import time; print(flush=True); time.sleep(60)"),
        start("gateway", PARENT),
        [],
    )
    write_state(settings, left_behind(prompt, stubborn))

    end_services(settings, said.append)

    assert said == [
        "gateway ran without its `stillhouse up`",
        "gateway did not end within 0.3 s and was killed; see gateway.log",
        "mlflow ran without its `stillhouse up`",
        "ended: gateway, mlflow",
    ]
    assert marked(MARK, stubborn.mark) == marked(MARK, prompt.mark) == set()
    assert not services_file(settings).exists()


def test_end_services_ends_what_a_service_started_while_it_was_told_to_end(settings, start):
    service = start("mlflow", SPAWNER, stop_within_s=5.0)
    write_state(settings, left_behind(service))

    end_services(settings, [].append)

    assert marked(MARK, service.mark) == set()


def test_end_services_spares_a_process_that_got_the_number_of_a_service(settings, start):
    stranger = start("mlflow", "import time; print(flush=True); time.sleep(60)")
    recorded = stranger.process.model_copy(update={"started": "in another life"})
    said = []
    write_state(settings, left_behind(stranger.model_copy(update={"process": recorded, "mark": "another"})))

    end_services(settings, said.append)

    assert said == ["nothing runs here"]
    assert is_running(stranger.process)


def test_end_services_says_so_when_there_is_nothing_to_end(settings):
    said = []
    end_services(settings, said.append)
    assert said == ["nothing runs here"]
