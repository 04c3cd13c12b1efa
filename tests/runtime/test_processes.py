import os
import signal
import subprocess
import sys

import pytest

from tasks.runtime.processes import end, identify, is_running, marked, myself, send

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
WITH_CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]).wait()"


@pytest.fixture
def start():
    started = []

    def call(code, **environment):
        child = subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | environment, stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(child)
        child.stdout.readline()
        return child

    yield call
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_process_that_ended_is_not_running_even_before_its_parent_looked(start):
    child = start("print()")
    process = identify(child.pid)
    while process is not None and is_running(process):  # until it is a zombie, whose number is still taken
        pass
    assert identify(child.pid) is None
    assert child.wait() == 0
    assert identify(child.pid) is None


def test_send_spares_a_process_that_has_the_number_of_another(start):
    child = start("import time; print(flush=True); time.sleep(60)")
    earlier = identify(child.pid).model_copy(update={"started": "in another life"})

    assert not send(earlier, signal.SIGKILL)
    assert end([earlier], signal.SIGTERM, 0.0) == set()

    assert child.poll() is None
    assert send(identify(child.pid), signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def test_end_kills_what_is_late_and_says_so(start):
    prompt, stubborn = start("import time; print(flush=True); time.sleep(60)"), start(STUBBORN)
    late = identify(stubborn.pid)

    assert end([identify(prompt.pid), late], signal.SIGTERM, 0.2) == {late}

    assert (prompt.wait(), stubborn.wait()) == (-signal.SIGTERM, -signal.SIGKILL)


def test_marked_finds_what_a_killed_service_started(start):
    child = start(WITH_CHILD, A_MARK="this test")
    assert len(marked("A_MARK", "this test")) == 2

    child.kill()
    child.wait()

    (left,) = marked("A_MARK", "this test")
    assert left.pid != child.pid
    assert end([left], signal.SIGTERM, 0.0) == {left}
    assert marked("A_MARK", "this test") == set()
    assert myself() not in marked("A_MARK", "another")
