"""What a gateway serves and says after it was killed while it took a new route over."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.gateway.conftest import body_of, eventually
from tests.gateway.reload_kills import X

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "reload_kills.py"
STEPS = ["latest_route", "read_signatures", "read_artifact", "load", "swap"]
ACKNOWLEDGED = "replace store/acknowledgements/digits/test.json"
WITHDRAWN = "unlink store/acknowledgements/digits/test.json"
SERVED = {"acknowledged": [2, True], "left": [], "version": 2, "answered": [2], "replicas": ["test.json"]}


def run(*arguments):
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    table = json.loads(done.stdout)
    print(f"\n{arguments[0]}: killed at {len(table['points'])} points")
    return table


def check_reload(table):
    """Whenever it was killed, it serves what the route says when it is back, and never claimed more than it served."""
    order = {name: number for number, name in enumerate(table["names"])}
    assert table["points"]
    for point in table["points"]:
        at, left = point["point"], point["left"]
        swapped = order[at] >= order["after swap"]
        assert left["acknowledged"] in ([None, [1, True], [2, True]] if swapped else [[1, True]]), at
        assert left["left"] in ([], [".staged"]), at
        assert point["healed"] == {"first": SERVED, "then": SERVED}, at
    assert table["end"] == {"first": SERVED, "then": SERVED}


def test_gateway_serves_and_acknowledges_the_newest_route_when_killed_around_swap_and_acknowledgement(tmp_path):
    chosen = [f"{when} {step}" for when in ("before", "after") for step in ("swap", ACKNOWLEDGED)]
    table = run("reload", tmp_path, *chosen)
    assert len(table["points"]) == len(chosen)
    check_reload(table)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_gateway_serves_the_newest_route_when_killed_at_any_step_or_change_of_a_file(tmp_path):
    table = run("reload", tmp_path)
    steps = [name.removeprefix("after ") for name in table["names"] if name.startswith("after ")]
    assert [step for step in steps if step in (*STEPS, ACKNOWLEDGED, WITHDRAWN)] == [*STEPS, ACKNOWLEDGED, WITHDRAWN]
    assert [point["point"] for point in table["points"]] == table["names"]
    check_reload(table)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_gateway_serves_a_model_that_came_into_the_store_by_half(tmp_path):
    table = run("arrival", tmp_path)
    unserved = {**SERVED, "version": None, "answered": None, "acknowledged": [2, False]}
    outcomes = []
    for point in table["points"]:
        first, then = ({**point["healed"][name], "left": []} for name in ("first", "then"))
        assert first in (SERVED, unserved), point["point"]
        assert then == SERVED, point["point"]
        outcomes.append(first == SERVED)
    assert outcomes == sorted(outcomes), "it is there from one point on"
    assert set(outcomes) == {True, False}


class Supervised:
    """Two workers that one supervisor keeps, and where to find them."""

    def __init__(self, process, url, log):
        self.process, self.url, self.log = process, url, log

    def workers(self):
        """Return the living workers by their replicas' names."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):  # it has just died
                if "--replica" in (command := child.cmdline()):
                    found[command[command.index("--replica") + 1]] = child
        return found

    def ask(self, request_id):
        """Ask on a connection of its own, so that the kernel chooses a worker anew."""
        with httpx.Client(base_url=self.url, timeout=20, trust_env=False) as client:
            return client.post("/v2/models/digits/infer", content=body_of(X, request_id))


@contextlib.contextmanager
def supervised(site, log, port=0):
    command = [sys.executable, "-m", "infra.gateway", "--workers", "2", "--replica", "test", "--port", str(port)]
    places = {"STILLHOUSE_STORE": str(site.store), "STILLHOUSE_TRAFFIC": str(site.traffic)}
    with (
        log.open("ab") as errors,
        subprocess.Popen(command, env=os.environ | places, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), log.read_text()
            yield Supervised(process, url, log)
        finally:
            process.kill()


@contextlib.contextmanager
def asking(group):
    """Keep asking, and give the list of (request id, reply); what found no connection is left out."""
    answers, stop = [], threading.Event()

    def ask_on():
        for number in itertools.count():
            if stop.is_set():
                return
            try:
                answers.append((f"r{number}", group.ask(f"r{number}")))
            except httpx.TransportError:
                time.sleep(0.01)

    client = threading.Thread(target=ask_on, daemon=True)
    client.start()
    try:
        yield answers
    finally:
        stop.set()
        client.join()


def acknowledges(site, replica, version, since):
    """Whether the replica has said, after `since`, that it serves the version."""
    heard = site.acknowledgement(replica)
    return heard is not None and heard.ready and heard.route_version == version and heard.at > since


def check_answers(answers, models, scales):
    """Every answer is right for the model that it names; who is not answered is told to ask another gateway."""
    answered = [(request_id, reply) for request_id, reply in answers if reply.status_code == 200]
    assert answered
    assert {reply.status_code for _, reply in answers} <= {200, 503}
    for _, reply in answered:
        scale = scales[reply.headers["x-stillhouse-model-digest"]]
        given = np.array(reply.json()["outputs"][0]["data"]).reshape(2, -1)
        np.testing.assert_allclose(given, models.expected(X, scale), rtol=1e-4, atol=1e-5)
    return {request_id for request_id, _ in answered}


def logged_once(site):
    """Return the ids of the requests in the log, none of whose rows may be there twice."""
    rows = [(row["request_id"], row["row"]) for row in site.log()]
    assert len(rows) == len(set(rows)), "no row is doubled"
    return {request_id for request_id, _ in rows}


def models_behind(group, tag):
    return {group.ask(f"{tag}-{number}").headers["x-stillhouse-model-digest"] for number in range(10)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_serve_the_newest_route_again_whichever_of_them_is_killed_while_they_reload(site, models, tmp_path):
    scales = {site.put(models.linear(scale)): scale for scale in (1.0, -2.0)}
    digests = list(scales)
    site.route(digests[0])
    with supervised(site, tmp_path / "log") as group:
        with asking(group) as answers:
            for turn in range(4):
                wanted = digests[(turn + 1) % 2]
                version = site.route(wanted)
                first, other = (f"test-{number}" for number in (turn % 2, 1 - turn % 2))
                site.wait_for(version, first)
                victim = first if turn >= 2 else other  # which is taking it over now, or just has
                kill_and_wait_for_another(group, site, victim, version)
                eventually(lambda other=other, version=version: acknowledges(site, other, version, ""))
                assert models_behind(group, f"turn{turn}") == {wanted}
        group.process.terminate()
        assert group.process.wait(timeout=60) == 0
    check_answers(answers, models, scales)
    logged_once(site)


def kill_and_wait_for_another(group, site, replica, version):
    worker = group.workers()[replica]
    worker.send_signal(signal.SIGKILL)
    worker.wait(timeout=30)
    since = site.acknowledgement(replica).at
    eventually(lambda: acknowledges(site, replica, version, since), timeout_s=120)
    eventually(lambda: replica in group.workers())
    assert group.workers()[replica].pid != worker.pid


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_supervisor_started_after_one_that_was_killed_while_its_workers_reload_serves_the_newest_route(
    site, models, tmp_path
):
    scales = {site.put(models.linear(scale)): scale for scale in (1.0, -2.0)}
    first, second = scales
    site.route(first)
    log = tmp_path / "log"
    with supervised(site, log) as old, asking(old) as answers:
        eventually(lambda: len(answers) > 5)
        workers = list(old.workers().values())
        version = site.route(second)
        since = site.wait_for(version, "test-0").at
        old.process.kill()
        with supervised(site, log, port=old.url.rpartition(":")[2]) as new:
            eventually(lambda: not any(worker.is_running() for worker in workers), timeout_s=60)
            for replica in ("test-0", "test-1"):  # the old workers' end took no acknowledgement of the new away
                eventually(lambda replica=replica: acknowledges(site, replica, version, since), timeout_s=60)
            assert models_behind(new, "new") == {second}
            new.process.terminate()
            assert new.process.wait(timeout=60) == 0
    answered = check_answers(answers, models, scales)
    assert answered <= logged_once(site), "workers that lose their supervisor end in order"
    assert [site.acknowledgement(name) for name in ("test-0", "test-1")] == [None, None]
