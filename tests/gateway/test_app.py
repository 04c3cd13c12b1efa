import hashlib
import http.client
import math
import socket
import threading
from urllib.parse import urlsplit

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.contracts.artifact import artifact_key
from tasks.contracts.route import Arm, ModelSignature, Route, assigned_arm

X = np.random.default_rng(3).normal(size=(40, 4)).astype(np.float32) / 4  # below 1: `raising` answers all of them


def logits(reply):
    output = reply.json()["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def sample(gateway, name):
    """Read one Prometheus series."""
    for line in gateway.http.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


@pytest.fixture
def gateway(start, site, models):
    """A gateway with a champion and no challenger."""
    started = start()
    site.wait_for(site.route(site.put(models.linear())))
    return started


def test_infer_answers_as_the_protocol_says(gateway, site, models):
    reply = gateway.infer(X[:3], "my-id")
    assert reply.status_code == 200
    np.testing.assert_allclose(logits(reply), models.expected(X[:3]), rtol=1e-5)
    assert reply.json() | {"outputs": None} == {
        "model_name": "digits",
        "model_version": "1",
        "id": "my-id",
        "outputs": None,
    }
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-stillhouse-arm"] == reply.headers["x-stillhouse-served-by"] == "champion"
    assert reply.headers["x-stillhouse-model-digest"] == site.put(models.linear())
    assert reply.headers["x-stillhouse-model-version"] == "1"
    assert reply.headers["x-stillhouse-route-version"] == "1"
    assert reply.headers["x-stillhouse-request-id"] == "my-id"


def test_a_model_is_not_denied_before_the_routes_were_read(start, site, models, make_body, monkeypatch):
    monkeypatch.setattr("infra.gateway.routing.RouteWatcher.scan", lambda watcher: None)
    site.route(site.put(models.linear()))
    starting = start()

    replies = [starting.infer(X[:1]), starting.http.get("/v2/models/digits/ready")]

    assert [reply.status_code for reply in replies] == [503, 503]
    assert "has not read its routes yet" in replies[0].json()["error"]


def test_infer_makes_up_an_id_when_none_is_given(gateway):
    reply = gateway.infer(X[:1])
    assert reply.json()["id"] == reply.headers["x-stillhouse-request-id"] != ""


def test_infer_takes_and_gives_binary_tensors(gateway, models):
    tensor = {"name": "x", "datatype": "FP32", "shape": [3, 4], "parameters": {"binary_data_size": 48}}
    text = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    reply = gateway.http.post(
        gateway.path,
        content=text + X[:3].astype("<f4").tobytes(),
        headers={"Inference-Header-Content-Length": str(len(text))},
    )
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    json_bytes = int(reply.headers["inference-header-content-length"])
    (output,) = orjson.loads(reply.content[:json_bytes])["outputs"]
    assert output == {
        "name": "logits", "datatype": "FP32", "shape": [3, 3], "parameters": {"binary_data_size": 36}
    }  # fmt: skip
    values = np.frombuffer(reply.content[json_bytes:], "<f4").reshape(3, 3)
    np.testing.assert_array_equal(values, logits(gateway.infer(X[:3])).astype(np.float32))


def test_infer_takes_bare_values(gateway, models):
    reply = gateway.http.post(
        gateway.path, content=X[:2].astype("<f4").tobytes(), headers={"Inference-Header-Content-Length": "0"}
    )
    json_bytes = int(reply.headers["inference-header-content-length"])
    values = np.frombuffer(reply.content[json_bytes:], "<f4").reshape(2, 3)
    np.testing.assert_allclose(values, models.expected(X[:2]), rtol=1e-5)


def test_infer_refuses_json_that_is_announced_as_bare_values(gateway, make_body):
    body = make_body(X[:1])
    body += b" " * (-len(body) % 16)  # whole rows of finite floats, if they were read so
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/json"}
    assert gateway.http.post(gateway.path, content=body, headers=headers).status_code == 400


@pytest.mark.parametrize("length", ["-1", "many", "99999", "9" * 40])
def test_infer_refuses_a_length_of_the_json_that_cannot_be(gateway, make_body, length):
    reply = gateway.http.post(
        gateway.path, content=make_body(X[:1]), headers={"Inference-Header-Content-Length": length}
    )
    assert reply.status_code == 400
    assert "Inference-Header-Content-Length" in reply.json()["error"]


def test_a_version_that_is_named_answers_and_is_no_evidence_of_the_split(start, site, models, make_body):
    gateway = start()
    champion, challenger = site.put(models.linear()), site.put(models.linear(2.0))
    site.wait_for(site.route(champion, challenger, weight=50.0, salt="s"))
    for version, scale in ((1, 1.0), (2, 2.0)):
        for number in range(8):
            reply = gateway.http.post(
                f"/v2/models/digits/versions/{version}/infer", content=make_body(X[:1], f"{version}-{number}")
            )
            np.testing.assert_allclose(logits(reply), models.expected(X[:1], scale), rtol=1e-5)
            assert reply.json()["model_version"] == reply.headers["x-stillhouse-model-version"] == str(version)
    assert gateway.infer(X[:1], "split").status_code == 200
    metrics = gateway.http.get("/metrics").text
    assert 'stillhouse_gateway_pinned_total{model="digits",version="2"} 8.0' in metrics
    gateway.stop()
    assert [row["request_id"] for row in site.log()] == ["split"]


def test_a_version_that_is_named_has_no_fallback(start, site, models, make_body):
    gateway = start()
    site.wait_for(site.route(site.put(models.linear()), site.put(models.raising()), weight=50.0, salt="s"))
    rows = np.full((1, 4), 2.0, np.float32)
    assert gateway.http.post("/v2/models/digits/versions/2/infer", content=make_body(rows)).status_code == 500
    assert gateway.http.post("/v2/models/digits/versions/1/infer", content=make_body(rows)).status_code == 200


def test_a_version_that_is_loaded_is_described_and_another_is_a_404(start, site, models, make_body):
    gateway = start()
    site.wait_for(site.route(site.put(models.linear()), site.put(models.linear(2.0)), weight=50.0, salt="s"))
    get = gateway.http.get
    assert get("/v2/models/digits/versions/2").json() == get("/v2/models/digits").json()
    assert get("/v2/models/digits/versions/2/ready").json() == {"name": "digits", "ready": True}
    for version in ("3", "0", "x", "1e3", "9" * 30, "-1", "%D9%A1"):
        for path in ("", "/ready", "/stats"):
            assert get(f"/v2/models/digits/versions/{version}{path}").status_code == 404
        infer = f"/v2/models/digits/versions/{version}/infer"
        assert gateway.http.post(infer, content=make_body(X[:1])).status_code == 404


def test_a_version_that_could_not_be_loaded_is_not_ready(start, site, models, make_body):
    gateway = start()
    site.wait_for(site.route(site.put(models.linear()), "0" * 64, weight=50.0, salt="s"))
    assert gateway.http.get("/v2/models/digits/versions/2/ready").status_code == 503
    assert gateway.http.get("/v2/models/digits/ready").status_code == 200
    assert gateway.http.post("/v2/models/digits/versions/2/infer", content=make_body(X[:1])).status_code == 500


def test_statistics_count_what_each_version_has_run(start, site, models, make_body):
    gateway = start()
    site.wait_for(site.route(site.put(models.linear()), site.put(models.raising()), weight=0.0, salt="s"))
    for _ in range(3):
        gateway.infer(X[:2])
    rows = np.full((1, 4), 2.0, np.float32)
    gateway.http.post("/v2/models/digits/versions/2/infer", content=make_body(rows))
    first, second = gateway.http.get("/v2/models/digits/stats").json()["model_stats"]
    assert (first["name"], first["version"], second["version"]) == ("digits", "1", "2")
    assert (first["inference_count"], first["execution_count"]) == (6, 3)
    assert first["inference_stats"]["success"]["count"] == 3
    assert first["inference_stats"]["success"]["ns"] > 0
    assert first["inference_stats"]["fail"] == {"count": 0, "ns": 0}
    assert (second["inference_count"], second["inference_stats"]["fail"]["count"]) == (0, 1)
    assert first["last_inference"] > 1e12
    assert gateway.http.get("/v2/models/digits/versions/2/stats").json()["model_stats"] == [second]


def test_invocations_and_ping_answer_as_mlflow_does(gateway, models):
    reply = gateway.http.post("/invocations", json={"inputs": X[:2].tolist()})
    np.testing.assert_allclose(reply.json()["predictions"], models.expected(X[:2]), rtol=1e-5)
    assert reply.headers["x-stillhouse-arm"] == "champion"
    assert gateway.http.get("/ping").status_code == 200
    assert gateway.http.post("/invocations", json={"rows": []}).status_code == 400
    named = {"X-Stillhouse-Model": "nobody"}
    assert gateway.http.post("/invocations", json={"inputs": X[:2].tolist()}, headers=named).status_code == 404


def test_invocations_need_a_name_when_there_are_two_models(start, site, models):
    gateway = start()
    for name in ("digits", "letters"):
        site.name = name
        site.wait_for(site.route(site.put(models.linear())))
    body = {"inputs": X[:1].tolist()}
    assert gateway.http.post("/invocations", json=body).status_code == 400
    reply = gateway.http.post("/invocations", json=body, headers={"X-Stillhouse-Model": "letters"})
    assert reply.status_code == 200


def test_metadata_and_health_answer_as_the_protocol_says(gateway):
    get = gateway.http.get
    assert get("/v2").json()["name"] == "stillhouse-gateway"
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True, "models": ["digits"]}
    assert get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
    assert get("/v2/models/digits").json() == {
        "name": "digits",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }


def test_readiness_is_503_when_a_champion_cannot_be_loaded(start, site, poll):
    site.route("0" * 64)
    gateway = start()
    poll(lambda: site.acknowledgement())
    assert gateway.http.get("/v2/health/ready").status_code == 503
    assert gateway.http.get("/v2/models/digits/ready").status_code == 503
    assert gateway.infer(X[:1]).status_code == 503


def test_split_is_the_contracts_and_has_the_routes_share(start, site, models):
    champion, challenger = site.put(models.linear()), site.put(models.linear(2))
    gateway = start()
    version = site.route(champion, challenger, weight=30, salt="s", rollout_id="r1")
    site.wait_for(version)
    route = Route.model_validate_json((site.store / f"documents/routes/digits/{version:08d}.json").read_bytes())
    arms = {}
    for n in range(600):
        reply = gateway.infer(X[:1], request_id=f"request-{n}")
        arms[f"request-{n}"] = reply.headers["x-stillhouse-arm"]
        scale = 2 if arms[f"request-{n}"] == "challenger" else 1
        np.testing.assert_allclose(logits(reply), models.expected(X[:1], scale), rtol=1e-5)
    assert arms == {key: assigned_arm(route, key) for key in arms}
    share = sum(arm == "challenger" for arm in arms.values()) / len(arms)
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(arms))


def test_same_key_meets_the_same_arm(start, site, models):
    gateway = start()
    site.wait_for(site.route(site.put(models.linear()), site.put(models.linear(2)), weight=50, salt="s"))
    for key in ("user-1", "user-2", "user-3", "user-4"):
        assert len({gateway.infer(X[:1], key=key).headers["x-stillhouse-arm"] for _ in range(10)}) == 1


@pytest.mark.parametrize("inline_limit_ms", [1000.0, 0.0], ids=["inline", "threads"])
@pytest.mark.parametrize(
    ("challenger", "first", "reason"),
    [("raising", 3.0, "run_failed"), ("dividing", 0.0, "not_finite"), ("endless", 1.0, "timeout")],
)
def test_champion_answers_when_the_challenger_fails(start, site, models, challenger, first, reason, inline_limit_ms):
    gateway = start(inference_timeout_s=0.1, inline_limit_ms=inline_limit_ms)
    champion = site.put(models.linear())
    site.wait_for(site.route(champion, site.put(getattr(models, challenger)()), weight=100, rollout_id="r1"))
    row = np.array([[first, 1, 1, 1]], np.float32)
    reply = gateway.infer(row, "r")
    assert reply.status_code == 200
    np.testing.assert_allclose(logits(reply), models.expected(row), rtol=1e-5)
    assert (reply.headers["x-stillhouse-arm"], reply.headers["x-stillhouse-served-by"]) == ("challenger", "champion")
    assert reply.headers["x-stillhouse-model-digest"] == champion
    series = f'stillhouse_gateway_fallbacks_total{{model="digits",reason="{reason}"}}'
    assert sample(gateway, series) == 1
    gateway.stop()
    (logged,) = site.log()
    assert (logged["arm"], logged["served_by"], logged["error"]) == ("challenger", "champion", reason)
    assert (logged["model_digest"], logged["prediction"]) == (champion, models.expected(row).argmax())


def test_champion_answers_when_the_challengers_blob_is_damaged(start, site, models):
    champion, challenger = site.put(models.linear()), site.put(models.linear(2))
    (site.store / artifact_key(challenger)).write_bytes(b"rubbish")
    gateway = start()
    acknowledgement = site.wait_for(site.route(champion, challenger, weight=100))
    assert not acknowledgement.ready
    assert gateway.infer(X[:1]).headers["x-stillhouse-served-by"] == "champion"
    gateway.stop()
    assert site.log()[0]["error"] == "not_ready"


def test_a_request_that_no_model_answers_is_a_500_without_details_and_is_logged(start, site, models):
    gateway = start()
    site.wait_for(site.route(site.put(models.raising())))
    reply = gateway.infer(np.full((1, 4), 3, np.float32), "r")
    assert reply.status_code == 500
    assert reply.json() == {"error": "the model gave no usable answer to this input"}
    assert gateway.infer(X[:1]).status_code == 200
    gateway.stop()
    assert [(row["error"], math.isnan(row["prediction"])) for row in site.log()] == [("run_failed", True), ("", False)]


def test_shadow_answers_are_logged_and_not_seen(start, site, models):
    champion, challenger = site.put(models.linear()), site.put(models.linear(-1))
    gateway = start()
    site.wait_for(site.route(champion, challenger, shadow=True, rollout_id="r1"))
    for n in range(20):
        assert gateway.infer(X[n : n + 2], f"{n}").headers["x-stillhouse-served-by"] == "champion"
    gateway.stop()
    rows = site.log()
    seen = {(row["request_id"], row["row"]): row for row in rows if not row["shadow"]}
    unseen = {(row["request_id"], row["row"]): row for row in rows if row["shadow"]}
    assert len(seen) == 40
    assert seen.keys() == unseen.keys()
    assert {(row["arm"], row["model_digest"]) for row in unseen.values()} == {("challenger", challenger)}
    for (request_id, row), logged in unseen.items():
        assert logged["prediction"] == models.expected(X[int(request_id) + row][None], -1).argmax()


def test_shadows_are_dropped_and_counted_when_too_many_wait(start, site, models):
    gateway = start(shadow_queue=1, inference_timeout_s=0.2)
    champion = site.put(models.linear())
    site.wait_for(site.route(champion, site.put(models.endless()), shadow=True))
    for n in range(10):
        assert gateway.infer(np.ones((1, 4), np.float32), f"{n}").status_code == 200
    dropped = sample(gateway, 'stillhouse_gateway_shadows_total{model="digits",outcome="dropped"}')
    assert dropped >= 5
    gateway.stop()
    shadows = [row for row in site.log() if row["shadow"]]
    assert len(shadows) == 10 - dropped
    assert {row["error"] for row in shadows} == {"timeout"}


def test_a_regression_is_answered_and_logged_as_numbers(start, site, models):
    digest = site.put(models.price())
    route = Route(
        model_name="digits",
        signature=ModelSignature(task="regression", input_shape=(4,), input_dtype="float32", class_names=()),
        champion=Arm(digest=digest, version=1),
    )
    gateway = start()
    site.wait_for(site.append_document(route.canonical_json()))
    reply = gateway.infer(X[:2], "r")
    np.testing.assert_allclose(logits(reply), X[:2].sum(axis=1, keepdims=True), rtol=1e-5)
    feedback = gateway.http.post("/v2/models/digits/feedback", json={"id": "r", "labels": [0.25, None]})
    assert feedback.status_code == 200
    gateway.stop()
    rows = site.log()
    np.testing.assert_allclose([row["prediction"] for row in rows], X[:2].sum(axis=1), rtol=1e-5)
    assert all(math.isnan(row["confidence"]) for row in rows)
    assert site.labels()[0]["label"] == 0.25


def test_feedback_is_logged_row_by_row(gateway, site):
    reply = gateway.http.post("/v2/models/digits/feedback", json={"id": "r", "labels": [2, None, 0]})
    assert reply.json() == {"id": "r", "accepted": 2}
    gateway.stop()
    assert [(row["request_id"], row["row"], row["label"]) for row in site.labels()] == [("r", 0, 2.0), ("r", 2, 0.0)]


def test_metrics_count_by_arm(gateway):
    for _ in range(3):
        gateway.infer(X[:2])
    gateway.http.post(gateway.path, content=b"{")
    assert sample(gateway, 'stillhouse_gateway_rows_total{arm="champion",model="digits"}') == 6
    assert sample(gateway, 'stillhouse_gateway_inference_seconds_count{arm="champion",model="digits"}') == 3
    assert sample(gateway, 'stillhouse_gateway_refused_total{status="400"}') == 1
    assert sample(gateway, 'stillhouse_gateway_log_rows_total{log="predictions",outcome="lost"}') == 0
    assert sample(gateway, 'stillhouse_gateway_route_version{model="digits"}') == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/unknown/infer", 404),
        ("POST", "/v2/models/unknown/feedback", 404),
        ("GET", "/v2/models/unknown", 404),
        ("GET", "/v2/models/unknown/ready", 404),
        ("POST", "/v2/models/..%2f..%2fdigits/infer", 404),
        ("POST", "/v2/models/../../etc/passwd/infer", 404),
        ("GET", "/v2/models/..%2f..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v2/models/digits%00", 404),
        ("POST", "/v2/models//infer", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/digits/infer", 405),
        ("DELETE", "/v2/models/digits", 405),
    ],
)
def test_a_path_that_is_not_served_is_refused_with_a_json_message(gateway, method, path, status):
    address = urlsplit(gateway.server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)  # sends the path as it is
    connection.request(method, path, body=b"{}" if method == "POST" else None)
    reply = connection.getresponse()
    assert reply.status == status
    assert set(orjson.loads(reply.read())) == {"error"}
    connection.close()


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [NaN, 1, 2, 3]}]}', {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 2, 3]}]}',
         {"X-Stillhouse-Key": "k" * 500}, 400),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_and_the_next_is_answered(gateway, content, headers, status):
    reply = gateway.http.post(gateway.path, content=content, headers=headers)
    assert reply.status_code == status
    assert set(reply.json()) == {"error"}
    assert gateway.infer(X[:1]).status_code == 200


def test_a_body_over_the_limit_is_refused_before_it_is_read(start, site, models):
    gateway = start(max_body_bytes=10_000)
    site.wait_for(site.route(site.put(models.linear())))
    address = urlsplit(gateway.server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(f"POST {gateway.path} HTTP/1.1\r\nHost: g\r\nContent-Length: 99999999999\r\n\r\n".encode())
        reply = http.client.HTTPResponse(connection)
        reply.begin()  # not a byte of the body was sent
        assert reply.status == 413
        assert reply.read() == b'{"error":"the body is longer than 10000 bytes"}'
    assert gateway.http.post(gateway.path, content=b"x" * 2_000_000).status_code == 413
    assert gateway.infer(X[:1]).status_code == 200


def test_a_chunked_body_is_cut_off_at_the_limit(start, site, models):
    gateway = start(max_body_bytes=10_000)
    site.wait_for(site.route(site.put(models.linear())))
    sent = 0

    def chunks():
        nonlocal sent
        while sent < 500 * 2**20:
            sent += 2**16
            yield b" " * 2**16

    try:
        reply = gateway.http.post(gateway.path, content=chunks())
    except OSError:  # the connection was closed under the client
        reply = None
    assert reply is None or reply.status_code == 413
    assert sent < 50 * 2**20
    assert gateway.infer(X[:1]).status_code == 200


def test_a_chunked_body_below_the_limit_is_answered(gateway, make_body):
    body = make_body(X[:1])
    reply = gateway.http.post(gateway.path, content=(body[n : n + 7] for n in range(0, len(body), 7)))
    assert reply.status_code == 200


def test_a_body_that_never_ends_is_refused_after_its_time(start, site, models):
    gateway = start(body_timeout_s=0.1)
    site.wait_for(site.route(site.put(models.linear())))
    address = urlsplit(gateway.server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(f"POST {gateway.path} HTTP/1.1\r\nHost: g\r\nContent-Length: 100\r\n\r\n{{".encode())
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert reply.status == 408


def test_a_caller_that_leaves_in_the_middle_disturbs_nobody(gateway, site):
    address = urlsplit(gateway.server.url)
    for _ in range(20):
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(f"POST {gateway.path} HTTP/1.1\r\nHost: g\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert gateway.infer(X[:1]).status_code == 200
    gateway.stop()
    assert len(site.log()) == 1


def test_slow_requests_do_not_hold_up_health_checks(start, site, models, poll):
    gateway = start(inline_limit_ms=0.0, inference_timeout_s=1.0)
    site.wait_for(site.route(site.put(models.endless())))
    slow = threading.Thread(target=gateway.infer, args=(np.ones((1, 4), np.float32),))
    slow.start()
    answered = 0
    while slow.is_alive():
        assert gateway.http.get("/v2/health/live").status_code == 200
        answered += 1
    slow.join()
    assert answered > 10


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | json_values.map(orjson.dumps)
    | st.fixed_dictionaries(
        {"inputs": st.lists(st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data"]), json_values))}
    ).map(orjson.dumps)
)
def test_any_body_is_answered_with_4xx_or_200_and_never_a_traceback(gateway, body):
    for action in ("infer", "feedback"):
        reply = gateway.http.post(f"/v2/models/digits/{action}", content=body)
        assert reply.status_code == 200 or 400 <= reply.status_code < 500
        assert b"Traceback" not in reply.content
        assert isinstance(reply.json(), dict)


ROLES = {"infer": "caller", "feedback": "labeller", "admin": "operator"}
NEEDS = {
    ("POST", "/v2/models/digits/infer"): "infer",
    ("POST", "/v2/models/digits/versions/1/infer"): "infer",
    ("POST", "/invocations"): "infer",
    ("GET", "/v2/models/digits"): "infer",
    ("GET", "/v2/models/digits/versions/1"): "infer",
    ("POST", "/v2/models/digits/feedback"): "feedback",
    ("GET", "/v2/models/digits/stats"): "admin",
    ("GET", "/v2/models/digits/versions/1/stats"): "admin",
    ("GET", "/metrics"): "admin",
    ("GET", "/v2"): None,
    ("GET", "/ping"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/v2/health/live"): None,
    ("GET", "/v2/health/ready"): None,
    ("GET", "/v2/models/digits/ready"): None,
    ("GET", "/v2/models/digits/versions/1/ready"): None,
}


def test_tokens_open_what_their_role_needs_and_nothing_else(start, site, models, make_body, tmp_path):
    tokens = tmp_path / "tokens.json"
    tokens.write_bytes(orjson.dumps({role: [hashlib.sha256(t.encode()).hexdigest()] for role, t in ROLES.items()}))
    gateway = start(tokens=tokens)
    site.wait_for(site.route(site.put(models.linear())))
    for (method, path), needed in NEEDS.items():
        body = b'{"id": "r", "labels": [1]}' if path.endswith("feedback") else make_body(X[:1])
        body = orjson.dumps({"inputs": X[:1].tolist()}) if path == "/invocations" else body

        def status(token, method=method, path=path, body=body):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            content = body if method == "POST" else None
            reply = gateway.http.request(method, path, content=content, headers=headers)
            if reply.status_code in (401, 403):
                assert set(reply.json()) == {"error"}
                assert reply.headers["www-authenticate"].startswith("Bearer")
            return reply.status_code

        assert status(None) == status("nobody") == (401 if needed else 200), path
        for role, token in ROLES.items():
            assert status(token) == (200 if needed in (None, role) or role == "admin" else 403), (path, role)


def test_an_unknown_model_is_no_404_to_a_caller_without_a_token(start, site, tmp_path):
    tokens = tmp_path / "tokens.json"
    tokens.write_bytes(orjson.dumps({"infer": [hashlib.sha256(b"caller").hexdigest()]}))
    gateway = start(tokens=tokens)
    assert gateway.http.post("/v2/models/unknown/infer", content=b"{}").status_code == 401


def test_a_refused_request_is_one_line_in_the_log_and_an_answered_one_is_none(gateway, make_body, caplog):
    with caplog.at_level("INFO", logger="infra.gateway.requests"):
        assert gateway.infer(X[:1]).status_code == 200
        reply = gateway.http.post(gateway.path, content=b"{")
        gateway.http.get("/nothing")
    lines = [record.fields for record in caplog.records if record.name == "infra.gateway.requests"]
    assert [(line["status"], line["path"]) for line in lines] == [(400, gateway.path), (404, "/nothing")]
    assert lines[0]["request_id"] == reply.headers["x-stillhouse-request-id"]
    assert lines[0]["ms"] > 0


def test_a_failed_answer_is_logged_with_arm_and_version(start, site, models, caplog):
    gateway = start()
    site.wait_for(site.route(site.put(models.raising())))
    with caplog.at_level("INFO", logger="infra.gateway.requests"):
        assert gateway.infer(np.full((1, 4), 3, np.float32), "r").status_code == 500
    (line,) = [record.fields for record in caplog.records if record.name == "infra.gateway.requests"]
    assert (line["status"], line["request_id"], line["arm"], line["model_version"]) == (500, "r", "champion", "1")


def test_every_request_is_logged_when_the_access_log_is_on(start, site, models, caplog):
    gateway = start(access_log=True)
    site.wait_for(site.route(site.put(models.linear())))
    with caplog.at_level("INFO", logger="infra.gateway.requests"):
        gateway.infer(X[:1], "r")
    lines = [record.fields for record in caplog.records if record.name == "infra.gateway.requests"]
    assert (lines[-1]["status"], lines[-1]["request_id"], lines[-1]["arm"]) == (200, "r", "champion")


def test_equal_inputs_share_an_answer_in_whatever_form_they_come(start, site, models, make_body):
    gateway = start(cache_bytes=100_000)
    site.wait_for(site.route(site.put(models.linear())))
    bare = {"Inference-Header-Content-Length": "0"}
    first = gateway.http.post(gateway.path, content=make_body(X[:2], "a"))
    second = gateway.http.post(gateway.path, content=X[:2].tobytes(), headers=bare)
    third = gateway.http.post("/invocations", json={"inputs": X[:2].tolist()})
    other = gateway.http.post(gateway.path, content=make_body(X[:1], "b"))
    replies = (first, second, third, other)
    assert [reply.headers["x-stillhouse-cache"] for reply in replies] == ["miss", "hit", "hit", "miss"]
    length = int(second.headers["inference-header-content-length"])
    np.testing.assert_array_equal(np.frombuffer(second.content[length:], "<f4").reshape(2, 3), logits(first))
    np.testing.assert_array_equal(np.array(third.json()["predictions"], np.float32), logits(first))
    assert second.headers["x-stillhouse-model-digest"] == first.headers["x-stillhouse-model-digest"]
    labels = '{arm="champion",model="digits"}'
    assert sample(gateway, f"stillhouse_gateway_cache_hits_total{labels}") == 2
    assert sample(gateway, f"stillhouse_gateway_cache_misses_total{labels}") == 2
    assert sample(gateway, f"stillhouse_gateway_inference_seconds_count{labels}") == 2
    assert sample(gateway, "stillhouse_gateway_cache_bytes") > 0
    gateway.stop()
    logged = {row["request_id"]: (row["cached"], row["prediction"]) for row in site.log() if row["row"] == 0}
    assert sorted(cached for cached, _ in logged.values()) == [False, False, True, True]
    assert len({prediction for _, prediction in logged.values()}) == 1


def test_replies_say_nothing_of_a_cache_that_is_off(gateway):
    assert "x-stillhouse-cache" not in gateway.infer(X[:1]).headers


def test_a_fallbacks_answer_is_never_given_as_the_challengers(start, site, models):
    gateway = start(cache_bytes=100_000)
    champion = site.put(models.linear())
    site.wait_for(site.route(champion, site.put(models.raising()), weight=100, rollout_id="r1"))
    row = np.full((1, 4), 3, np.float32)
    for number in range(3):
        reply = gateway.infer(row, f"{number}")
        assert reply.headers["x-stillhouse-cache"] == "miss"
        assert reply.headers["x-stillhouse-model-digest"] == champion
    assert sample(gateway, 'stillhouse_gateway_fallbacks_total{model="digits",reason="run_failed"}') == 3
    site.wait_for(site.route(champion))
    assert gateway.infer(row, "3").headers["x-stillhouse-cache"] == "hit"
    gateway.stop()
    assert [row["error"] for row in sorted(site.log(), key=lambda row: row["request_id"])] == ["run_failed"] * 3 + [""]


def test_a_failure_is_not_kept(start, site, models):
    gateway = start(cache_bytes=100_000)
    site.wait_for(site.route(site.put(models.raising())))
    for _ in range(2):
        reply = gateway.infer(np.full((1, 4), 3, np.float32))
        assert (reply.status_code, reply.headers["x-stillhouse-cache"]) == (500, "miss")


def test_a_cached_answer_is_not_shadowed(start, site, models):
    gateway = start(cache_bytes=100_000)
    site.wait_for(site.route(site.put(models.linear()), site.put(models.linear(2)), shadow=True, rollout_id="r1"))
    for number in range(4):
        gateway.infer(X[:1], f"{number}")
    gateway.stop()
    assert sorted((row["request_id"], row["shadow"]) for row in site.log() if not row["cached"]) == [
        ("0", False), ("0", True)
    ]  # fmt: skip
