import os
import signal
import sys
import threading

import pytest

from infra.engines.chosen import Options
from infra.engines.ending import end_services
from infra.engines.service import Service
from infra.engines.supervising import Supervisor, alone
from tasks.contracts.errors import ServiceUnavailableError, UserError
from tasks.runtime.processes import is_running
from tasks.runtime.service_state import read_state, services_file, write_state
from tasks.runtime.settings import Settings

SLEEPS = "import time; time.sleep(60)"


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


@pytest.fixture
def said():
    return []


def service(name, code=SLEEPS, is_ready=lambda: True):
    return Service(name, [sys.executable, "-c", code], is_ready, f"http://{name}", name, dict(os.environ))


def test_run_starts_all_says_where_they_are_and_ends_them_when_asked(settings, said):
    asked, states = [], []

    def say(line):
        said.append(line)
        if line == "gateway: gateway":  # the last one
            states.append(read_state(settings))
            threading.Timer(0.0, asked.append, [signal.SIGTERM]).start()

    Supervisor(settings, asked, say).run([service("prefect_api"), service("gateway")], Options())

    (state,) = states
    assert [one.name for one in state.services] == ["prefect_api", "gateway"]
    assert not any(is_running(one.process) for one in state.services)
    assert said[-1] == "ending"
    assert not services_file(settings).exists()


def test_run_names_the_service_that_ended_with_its_last_words_and_ends_the_others(settings, said):
    others = []
    fails = service(
        "mlflow", "import sys; print('no such table', flush=True); sys.exit(7)",
        is_ready=lambda: bool(others.append(read_state(settings))),
    )  # fmt: skip
    with pytest.raises(ServiceUnavailableError, match=r"mlflow ended with code 7; see .*mlflow\.log: no such table"):
        Supervisor(settings, [], said.append).run([service("prefect_api"), fails], Options())

    state = read_state(settings)
    assert (state.services, state.ready) == ((), False)
    assert state.failure.startswith("mlflow ended with code 7")
    for earlier in (one for one in others if one is not None):
        assert not any(is_running(one.process) for one in earlier.services)
    gone = state.supervisor.model_copy(update={"started": "in another life"})  # as it is soon; here it is the test
    write_state(settings, state.model_copy(update={"supervisor": gone}))
    end_services(settings, said.append)
    assert said[-1].startswith("they had ended by themselves: mlflow ended with code 7")
    end_services(settings, said.append)
    assert said[-1] == "nothing runs here"


def test_alone_refuses_a_second_one_and_one_beside_what_an_earlier_one_left(settings, said):
    with alone(settings), pytest.raises(UserError, match=r"run already.*stillhouse down"), alone(settings):
        pass

    states = []

    def say(line):
        states.append(read_state(settings))
        raise KeyboardInterrupt  # nothing that it foresees: the state is looked at, then all is ended

    with pytest.raises(KeyboardInterrupt):
        Supervisor(settings, [], say).run([service("prefect_api")], Options())
    (state,) = states
    left = state.model_copy(
        update={"services": tuple(one.model_copy(update={"process": state.supervisor}) for one in state.services)}
    )
    write_state(settings, left)
    with pytest.raises(UserError, match="prefect_api of an earlier `stillhouse up`"), alone(settings):
        pass
