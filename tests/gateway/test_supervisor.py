"""Several gateways on one port, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import httpx
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.gateway.supervisor import _Worker

X = np.ones((1, 4), np.float32) / 8


@pytest.fixture
def supervisor(site, models, tmp_path):
    """Two workers that serve one model; gives (process, address)."""
    site.route(site.put(models.linear()))
    command = [sys.executable, "-m", "infra.gateway", "--workers", "2", "--port", "0", "--replica", "test"]
    places = {"STILLHOUSE_STORE": str(site.store), "STILLHOUSE_TRAFFIC": str(site.traffic)}
    log = tmp_path / "supervisor.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [*command, "--log-format", "json"],
            env=os.environ | places,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as running,
    ):
        url = running.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), log.read_text()
        yield running, url, log
        running.kill()


def ask(url, body, request_id=None):
    """One request on a connection of its own, so that the kernel chooses a worker anew."""
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        return client.post("/v2/models/digits/infer", content=body)


def workers_of(process):
    return [child for child in psutil.Process(process.pid).children() if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_workers_share_the_port_under_names_of_their_own_and_end_in_order(supervisor, site, make_body):
    process, url, _ = supervisor
    assert {site.acknowledgement(name).ready for name in ("test-0", "test-1")} == {True}
    for n in range(60):
        assert ask(url, make_body(X, f"{n}")).status_code == 200
    process.terminate()
    assert process.wait(timeout=60) == 0
    assert sorted(int(row["request_id"]) for row in site.log()) == list(range(60))
    files = Counter(path.name.rsplit("-", 1)[0] for path in site.traffic.rglob("predictions/**/*.parquet"))
    assert set(files) == {"test-0", "test-1"}
    assert [site.acknowledgement(name) for name in ("test-0", "test-1")] == [None, None]


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_the_other_goes_on(supervisor, site, make_body, poll):
    process, url, log = supervisor
    before = {worker.pid for worker in workers_of(process)}
    assert len(before) == 2
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    answers, stop = Counter(), threading.Event()

    def ask_on():
        while not stop.is_set():
            try:
                answers[ask(url, make_body(X)).status_code] += 1
            except httpx.TransportError:
                answers["refused"] += 1

    asking = threading.Thread(target=ask_on)
    asking.start()
    poll(lambda: len({worker.pid for worker in workers_of(process)} - {victim}) == 2, timeout_s=60)
    replaced = {worker.pid for worker in workers_of(process)}
    lines = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    poll(lambda: sum("listens on" in line for line in log.read_text().splitlines()) == 3, timeout_s=60)
    stop.set()
    asking.join()
    assert len(replaced & before) == 1
    assert any("ended with code -9; another starts in 0.5 s" in line for line in lines)
    assert answers[200] == answers.total() > 0, "a worker takes connections only when its models are loaded"
    process.terminate()
    assert process.wait(timeout=60) == 0


@pytest.mark.slow
def test_workers_end_when_the_supervisor_is_killed(supervisor, poll):
    process, _, _ = supervisor
    workers = workers_of(process)
    process.kill()
    poll(lambda: not any(worker.is_running() for worker in workers), timeout_s=60)


@pytest.mark.slow
def test_a_setting_that_is_wrong_ends_the_supervisor_and_is_not_tried_again(site):
    command = [sys.executable, "-m", "infra.gateway", "--workers", "2", "--port", "0", "--tokens", "/nowhere.json"]
    command += ["--store", str(site.store), "--traffic", str(site.traffic)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "/nowhere.json" in ended.stderr


def test_a_worker_that_keeps_dying_is_started_after_longer_and_longer_pauses(monkeypatch):
    worker = _Worker("w", [sys.executable, "-c", "raise SystemExit(7)"])
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pauses = []
    for _ in range(4):
        worker.start()
        assert worker.wait_until_it_serves() == 7
        worker.tend()  # sees that it ended
        pauses.append(worker._due_at - now[0])
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    worker.start()
    worker.wait_until_it_serves()
    now[0] += 31.0  # as if it had lived that long
    worker.tend()
    assert worker._due_at - now[0] == 0.5


@pytest.mark.slow
def test_whichever_worker_is_scraped_tells_of_all(supervisor, site, make_body, poll):
    process, url, _ = supervisor

    def answered():
        """Requests of each worker, by one scrape."""
        page = httpx.get(f"{url}/metrics", timeout=20, trust_env=False).text
        families = {family.name: family for family in text_string_to_metric_families(page)}
        counts = families["stillhouse_gateway_inference_seconds"].samples
        return {sample.labels["worker"]: sample.value for sample in counts if sample.name.endswith("_count")}

    sent = 0
    while len(answered()) < 2:
        assert ask(url, make_body(X)).status_code == 200
        sent += 1
        assert sent < 200, "the kernel gives new connections to both"
    scrapes = [answered() for _ in range(10)]
    assert all(scrape == scrapes[0] for scrape in scrapes), "the same, whichever worker answered"
    assert set(scrapes[0]) == {"test-0", "test-1"}
    assert sum(scrapes[0].values()) == sent

    os.kill(min(worker.pid for worker in workers_of(process)), signal.SIGKILL)
    poll(lambda: len(answered_or_none(answered)) == 1, timeout_s=60)


def answered_or_none(answered):
    try:
        return answered()
    except httpx.TransportError:
        return {}
