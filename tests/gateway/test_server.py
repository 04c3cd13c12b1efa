import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import httpx
import numpy as np
import pytest

X = np.random.default_rng(3).normal(size=(200, 4)).astype(np.float32)
FORBIDDEN = ("torch", "prefect", "mlflow", "boto3", "dvc", "great_expectations", "sqlalchemy", "httpx", "flows")


def test_the_gateway_imports_nothing_of_the_pipeline():
    program = (
        "import sys, infra.gateway.server, infra.gateway.__main__\n"
        f"heavy = [name for name in {FORBIDDEN} if name in sys.modules]\n"
        "ours = [name for name in sys.modules if name.startswith('tasks.')\n"
        "        and not name.startswith(('tasks.contracts', 'tasks.decisions'))]\n"
        "assert not heavy + ours, heavy + ours\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_gateway_that_has_answered_and_logged_has_not_imported_what_it_can_do_without(
    site, models, make_body, tmp_path
):
    """Pandas alone takes longer to import than all the rest, and pyarrow imports it unasked."""
    site.route(site.put(models.linear()))
    folders = ["--store", str(site.store), "--traffic", str(site.traffic)]
    command = [sys.executable, "-X", "importtime", "-m", "infra.gateway", "--port", "0", "--replica", "test", *folders]
    log = tmp_path / "stderr"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as running,
    ):
        url = running.stdout.readline().strip()
        site.wait_for(1)
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
            for n in range(3):
                assert client.post("/v2/models/digits/infer", content=make_body(X[n : n + 1], f"{n}")).is_success
                assert client.post("/v2/models/digits/feedback", json={"id": f"{n}", "labels": [n % 3]}).is_success
        running.terminate()
        assert running.wait(timeout=30) == 0
    assert len(site.log()) == len(site.labels()) == 3
    imported = {line.rpartition("|")[2].strip() for line in log.read_text().splitlines() if "import time:" in line}
    assert {"onnxruntime", "pyarrow.parquet"} <= imported
    assert not imported & {"pandas", "yaml", "infra.gateway.openapi.document", "infra.gateway.tracing", "cryptography"}


def send(gateway, stop, answers, tag):
    """Send rows until told to stop; keep (request id, row number, reply)."""
    with httpx.Client(base_url=gateway.server.url, timeout=20, trust_env=False) as client:
        for n in itertools.count():
            if stop.is_set():
                return
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": X[n % len(X)].tolist()}
            try:
                reply = client.post(gateway.path, json={"id": f"{tag}-{n}", "inputs": [tensor]})
            except httpx.HTTPError as error:
                answers.append((f"{tag}-{n}", n % len(X), error))
                return
            answers.append((f"{tag}-{n}", n % len(X), reply))


@contextlib.contextmanager
def traffic(gateway):
    """Keep three clients busy, and give the list of their answers."""
    answers, stop = [], threading.Event()
    clients = [threading.Thread(target=send, args=(gateway, stop, answers, tag), daemon=True) for tag in range(3)]
    for client in clients:
        client.start()
    try:
        while not answers:
            assert any(client.is_alive() for client in clients)
        yield answers
    finally:
        stop.set()
        for client in clients:
            client.join()


def test_routes_are_swapped_under_load_without_a_failed_request_and_every_answer_is_logged(start, site, models, poll):
    digests = [site.put(models.linear(scale)) for scale in (1, 2, -1, -3)]
    scales = dict(zip(digests, (1, 2, -1, -3), strict=True))
    gateway = start(flush_rows=50)
    site.wait_for(site.route(digests[0]))
    with traffic(gateway) as answers:
        broken = site.put(models.dividing()[:-10])
        for turn in range(12):
            champion, challenger = digests[turn % 4], digests[(turn + 1) % 4]
            challenger = broken if turn % 5 == 4 else challenger
            weight = (0, 5, 50, 100)[turn % 4]
            version = site.route(champion, challenger, weight=weight, salt=f"{turn}", rollout_id="r")
            site.wait_for(version)
            poll(lambda wanted=str(version): answers[-1][2].headers["x-stillhouse-route-version"] == wanted)
    gateway.stop()

    assert len(answers) > 30
    failed = [reply for _, _, reply in answers if isinstance(reply, Exception) or reply.status_code != 200]
    assert failed == []
    logged = {row["request_id"]: row for row in site.log()}
    assert len(logged) == len(site.log()) == len(answers), "no row is lost and none is doubled"
    for request_id, number, reply in answers:
        row, head = logged[request_id], reply.headers
        given = np.array(reply.json()["outputs"][0]["data"])
        np.testing.assert_allclose(
            given, models.expected(X[number][None], scales[head["x-stillhouse-model-digest"]])[0], rtol=1e-4, atol=1e-5
        )
        assert row["prediction"] == given.argmax()
        assert (row["arm"], row["served_by"]) == (head["x-stillhouse-arm"], head["x-stillhouse-served-by"])
        assert row["model_digest"] == head["x-stillhouse-model-digest"]
        assert row["route_version"] == int(head["x-stillhouse-route-version"])
    assert {row["route_version"] for row in logged.values()} == set(range(1, 14))


@pytest.fixture
def process(site):
    """A gateway in a process of its own, as in production; its first line of output is its address."""
    command = [sys.executable, "-m", "infra.gateway", "--port", "0", "--replica", "test"]
    places = {"STILLHOUSE_STORE": str(site.store), "STILLHOUSE_TRAFFIC": str(site.traffic)}
    with subprocess.Popen(
        command, env=os.environ | places, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        yield running
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_told_to_stop_ends_well_and_loses_no_row(process, site, models, make_body, number):
    site.route(site.put(models.linear()))
    url = process.stdout.readline().strip()
    site.wait_for(1)
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        for n in range(50):
            assert client.post("/v2/models/digits/infer", content=make_body(X[n : n + 2], f"{n}")).status_code == 200
            client.post("/v2/models/digits/feedback", json={"id": f"{n}", "labels": [n % 3, None]})
    process.send_signal(number)
    assert process.wait(timeout=30) == 0
    assert sorted({(row["request_id"], row["row"]) for row in site.log()}) == sorted(
        {(f"{n}", row) for n in range(50) for row in (0, 1)}
    )
    assert len(site.log()) == 100
    assert len(site.labels()) == 50
    assert site.acknowledgement() is None
    assert "Traceback" not in process.stderr.read()


def test_a_port_that_is_taken_ends_the_process_with_3_and_a_remedy(site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [
            sys.executable,
            "-m",
            "infra.gateway",
            "--port",
            port,
            "--store",
            str(site.store),
            "--traffic",
            str(site.traffic),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_replica_name_that_is_no_file_name_ends_the_process_with_2(site):
    command = [sys.executable, "-m", "infra.gateway", "--replica", "../x"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "replica" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_gateway_that_is_told_to_stop_says_so_and_still_answers_for_its_grace(start, site, models, poll, make_body):
    gateway = start(drain_grace_s=1.0)
    site.wait_for(site.route(site.put(models.linear())))
    assert gateway.infer(X[:1]).headers.get("connection") != "close"
    gateway.server.stop()
    told = poll(lambda: (reply := gateway.http.get("/v2/health/ready")).status_code == 503 and reply)
    assert told.headers["retry-after"] == "1"
    assert gateway.http.get("/v2/models/digits/ready").status_code == 503
    labels = b'{"id": "r", "labels": [1]}'
    for last in (gateway.infer(X[:1]), gateway.http.post("/v2/models/digits/feedback", content=labels)):
        assert (last.status_code, last.headers["connection"]) == (200, "close")
    gateway.thread.join(timeout=20)
    assert not gateway.thread.is_alive()


def test_a_model_that_is_not_loaded_is_a_503_that_says_when_to_come_back(start, site, make_body, poll):
    gateway = start(retry_interval_s=7.0)
    site.wait_for(site.route("0" * 64))
    reply = gateway.infer(X[:1])
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "7")
    assert gateway.http.get("/v2/health/ready").headers["retry-after"] == "1"


@pytest.mark.slow
def test_a_process_reads_its_tokens_again_on_sighup_and_keeps_them_when_they_are_broken(site, tmp_path, poll):
    tokens, log = tmp_path / "tokens.json", tmp_path / "gateway.log"

    def write(token):
        tokens.write_text(json.dumps({"admin": [hashlib.sha256(token.encode()).hexdigest()]}))

    def status(token):
        return httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"}, trust_env=False).status_code

    write("old")
    command = [sys.executable, "-m", "infra.gateway", "--port", "0", "--tokens", str(tokens)]
    places = {"STILLHOUSE_STORE": str(site.store), "STILLHOUSE_TRAFFIC": str(site.traffic)}
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, env=os.environ | places, stdout=subprocess.PIPE, stderr=errors, text=True) as running,
    ):
        url = running.stdout.readline().strip()
        assert (status("old"), status("new")) == (200, 401)
        write("new")
        running.send_signal(signal.SIGHUP)
        poll(lambda: status("new") == 200)
        assert status("old") == 401
        tokens.write_text("{")
        running.send_signal(signal.SIGHUP)
        poll(lambda: "the tokens stay as they were" in log.read_text())
        assert status("new") == 200
        running.terminate()
        assert running.wait(timeout=30) == 0
