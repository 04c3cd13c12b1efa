"""Bodies that are known by their bytes: what is answered, to whom, by which arm, and what is recorded of it."""

import hashlib
import http.client
import socket
from collections import Counter
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from infra.gateway.admission import Admission
from infra.gateway.app import Gateway
from infra.gateway.config import GatewayConfig
from infra.gateway.protocol import InferenceParser, TensorSpec
from infra.gateway.recall import BODY_KEY, OPEN_INFERENCE, Recall
from infra.gateway.routing import ServedRoute
from tasks.contracts.route import Arm, ModelSignature, Route, assigned_arm
from tasks.contracts.sampled_inputs import is_sampled

X = np.random.default_rng(5).normal(size=(6, 4)).astype(np.float32)
SIGNATURE = ModelSignature(task="classification", input_shape=(4,), input_dtype="float32", class_names=("a", "b", "c"))


def connect(gateway):
    address = urlsplit(gateway.server.url)
    return socket.create_connection((address.hostname, address.port), timeout=20)


def post(path, body, headers=(), version="1.1"):
    lines = [f"POST {path} HTTP/{version}", "Host: g", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read(connection):
    reply = http.client.HTTPResponse(connection, method="POST")
    reply.begin()
    content = reply.read()
    headers = {name.lower(): value for name, value in reply.getheaders()}
    return SimpleNamespace(status=reply.status, headers=headers, content=content)


@pytest.fixture(params=["in one piece", "in two"])
def ask(request):
    """Send a request: in one piece it may be answered before it has a task, in two it never is."""

    def send(gateway, body, *headers, path=None):
        whole = post(path or gateway.path, body, headers)
        with connect(gateway) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if request.param == "in one piece":
                connection.sendall(whole)
            else:
                connection.sendall(whole[:-1])
                connection.sendall(whole[-1:])
            return read(connection)

    return send


@pytest.fixture
def parsed(monkeypatch):
    """Count the bodies that were read."""
    counts = Counter()

    def counted(name):
        method = getattr(InferenceParser, name)

        def count(self, *given):
            counts[name] += 1
            return method(self, *given)

        monkeypatch.setattr(InferenceParser, name, count)

    counted("parse")
    counted("parse_invocation")
    return counts


@pytest.fixture
def gateway(start, site, models):
    """A gateway with a cache, and a champion without challenger."""
    started = start(cache_bytes=1_000_000)
    site.wait_for(site.route(site.put(models.linear())))
    return started


def values(reply):
    return np.array(orjson.loads(reply.content)["outputs"][0]["data"], np.float32)


def sample(gateway, name):
    for line in gateway.http.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def test_a_body_that_came_twice_is_not_read_again(gateway, models, make_body, ask, parsed):
    replies = [ask(gateway, make_body(X[:2], "r")) for _ in range(5)]
    assert [reply.headers["x-stillhouse-cache"] for reply in replies] == ["miss", "hit", "hit", "hit", "hit"]
    assert parsed["parse"] == 2
    assert len({reply.content for reply in replies}) == 1
    said = [{**reply.headers, "date": "", "x-stillhouse-cache": ""} for reply in replies]
    assert said == [said[0]] * 5
    np.testing.assert_allclose(values(replies[-1]), models.expected(X[:2]).ravel(), rtol=1e-5)


def test_every_request_is_recorded_and_counted_as_if_it_had_been_read(gateway, site, make_body, ask):
    for number in range(5):
        assert ask(gateway, make_body(X[number % 2 : number % 2 + 2])).status == 200
    labels = '{arm="champion",model="digits"}'
    for _ in range(3):
        ask(gateway, make_body(X[:2]))
    assert sample(gateway, f"stillhouse_gateway_cache_misses_total{labels}") == 2
    assert sample(gateway, f"stillhouse_gateway_cache_hits_total{labels}") == 6
    assert sample(gateway, f"stillhouse_gateway_inference_seconds_count{labels}") == 2
    assert sample(gateway, f"stillhouse_gateway_rows_total{labels}") == 4
    gateway.stop()
    rows = site.log()
    assert len(rows) == 16
    assert sum(row["cached"] for row in rows) == 12
    kinds = {}
    for row in rows:
        told = [row[name] for name in ("prediction", "confidence", "margin", "input_mean", "input_std", "batch_rows")]
        kinds.setdefault(round(row["input_mean"], 6), []).append([*told, *row["input_sketch"]])
    assert len(kinds) == 3
    for same in kinds.values():
        np.testing.assert_allclose(same, [same[0]] * len(same), rtol=1e-5, atol=1e-6)


def test_a_body_without_an_id_gets_a_new_one_each_time(gateway, site, make_body, ask):
    replies = [ask(gateway, make_body(X[:1])) for _ in range(6)]
    ids = [orjson.loads(reply.content)["id"] for reply in replies]
    assert len(set(ids)) == 6
    assert ids == [reply.headers["x-stillhouse-request-id"] for reply in replies]
    gateway.stop()
    assert sorted(row["request_id"] for row in site.log()) == sorted(ids)


def test_one_body_falls_to_the_arm_of_each_requests_key(start, site, models, make_body, ask, parsed):
    gateway = start(cache_bytes=1_000_000)
    version = site.route(site.put(models.linear()), site.put(models.linear(2)), weight=50, salt="s", rollout_id="r")
    site.wait_for(version)
    route = Route.model_validate_json((site.store / f"documents/routes/digits/{version:08d}.json").read_bytes())
    body, scales = make_body(X[:1], "r"), {"champion": 1.0, "challenger": 2.0}
    for number in range(60):
        reply = ask(gateway, body, f"X-Stillhouse-Key: user-{number}")
        arm = assigned_arm(route, f"user-{number}")
        assert (reply.headers["x-stillhouse-arm"], reply.headers["x-stillhouse-served-by"]) == (arm, arm)
        np.testing.assert_allclose(values(reply), models.expected(X[:1], scales[arm])[0], rtol=1e-5)
        assert orjson.loads(reply.content)["model_version"] == {"champion": "1", "challenger": "2"}[arm]
    assert parsed["parse"] < 20
    gateway.stop()
    logged = Counter((row["arm"], row["served_by"], row["model_version"]) for row in site.log())
    assert set(logged) == {("champion", "champion", 1), ("challenger", "challenger", 2)}
    assert sum(logged.values()) == 60


def test_a_body_without_id_and_key_falls_to_the_arm_of_its_new_id(start, site, models, make_body, ask):
    gateway = start(cache_bytes=1_000_000)
    version = site.route(site.put(models.linear()), site.put(models.linear(2)), weight=50, salt="s", rollout_id="r")
    site.wait_for(version)
    route = Route.model_validate_json((site.store / f"documents/routes/digits/{version:08d}.json").read_bytes())
    arms = Counter()
    for _ in range(40):
        reply = ask(gateway, make_body(X[:1]))
        assert reply.headers["x-stillhouse-arm"] == assigned_arm(route, reply.headers["x-stillhouse-request-id"])
        arms[reply.headers["x-stillhouse-arm"], reply.headers["x-stillhouse-cache"]] += 1
    assert arms["champion", "hit"] > 0
    assert arms["challenger", "hit"] > 0


def test_a_known_body_is_answered_by_the_present_route_after_every_reload(start, site, models, make_body, ask):
    gateway = start(cache_bytes=1_000_000)
    body, said = make_body(X[:1], "r"), []
    for scale in (1, 2, -1, 1):
        version = site.route(site.put(models.linear(scale)))
        site.wait_for(version)
        for _ in range(3):
            reply = ask(gateway, body)
            assert reply.headers["x-stillhouse-route-version"] == str(version)
            assert reply.headers["x-stillhouse-model-digest"] == site.put(models.linear(scale))
            np.testing.assert_allclose(values(reply), models.expected(X[:1], scale)[0], rtol=1e-5)
            said.append(reply.headers["x-stillhouse-cache"])
    assert said == ["miss", "hit", "hit"] * 3 + ["hit"] * 3, "a model that comes back finds its answers again"


def test_models_of_one_signature_share_what_is_known_and_never_an_answer(start, site, models, make_body, ask, parsed):
    gateway = start(cache_bytes=1_000_000)
    for name, scale in (("digits", 1), ("letters", 2)):
        site.name = name
        site.wait_for(site.route(site.put(models.linear(scale))))
    for _ in range(4):
        for name, scale in (("digits", 1), ("letters", 2)):
            reply = ask(gateway, make_body(X[:1], "r"), path=f"/v2/models/{name}/infer")
            assert orjson.loads(reply.content)["model_name"] == name
            np.testing.assert_allclose(values(reply), models.expected(X[:1], scale)[0], rtol=1e-5)
    assert parsed["parse"] < 8


def test_the_same_bytes_under_other_headers_mean_what_these_say(gateway, models, make_body, ask):
    text = make_body(X[:1])
    text += b" " * (-len(text) % 16)  # as bare values, whole rows of finite floats
    rows = np.frombuffer(text, "<f4").reshape(-1, 4)
    as_bytes = ("Content-Type: application/octet-stream", "Inference-Header-Content-Length: 0")
    as_both = ("Content-Type: application/json", "Inference-Header-Content-Length: 0")
    for _ in range(4):
        np.testing.assert_allclose(values(ask(gateway, text)), models.expected(X[:1])[0], rtol=1e-5)
        reply = ask(gateway, text, f"Inference-Header-Content-Length: {len(text)}")
        np.testing.assert_allclose(values(reply), models.expected(X[:1])[0], rtol=1e-5)
        reply = ask(gateway, text, *as_bytes)
        found = np.frombuffer(reply.content[int(reply.headers["inference-header-content-length"]) :], "<f4")
        np.testing.assert_allclose(found, models.expected(rows).ravel(), rtol=1e-4)
        assert ask(gateway, text, *as_both).status == 400
        assert ask(gateway, text, "Inference-Header-Content-Length: 99999").status == 400
        assert ask(gateway, text, "Content-Encoding: gzip").status == 415
        assert ask(gateway, text, "Content-Encoding: Identity").status == 200
        assert ask(gateway, text, "X-Stillhouse-Key: " + "k" * 200).status == 400


def test_the_same_bytes_by_mlflows_protocol_are_not_those_of_the_other(gateway, models, ask, parsed):
    body = orjson.dumps({"inputs": X[:2].tolist()})
    for _ in range(4):
        reply = ask(gateway, body, path="/invocations")
        np.testing.assert_allclose(orjson.loads(reply.content)["predictions"], models.expected(X[:2]), rtol=1e-5)
        assert ask(gateway, body).status == 400
    assert parsed["parse_invocation"] == 2


def test_wanted_outputs_of_a_known_body_come_in_the_form_that_it_asks_for(gateway, models, ask):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": X[0].tolist()}
    for _ in range(4):
        for binary in (True, False):
            body = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary}})
            reply = ask(gateway, body)
            length = int(reply.headers.get("inference-header-content-length", len(reply.content)))
            found = np.frombuffer(reply.content[length:], "<f4") if binary else values(reply)
            np.testing.assert_allclose(found, models.expected(X[:1])[0], rtol=1e-5)


def test_a_version_that_is_named_is_always_run(gateway, site, make_body, ask):
    for _ in range(3):
        ask(gateway, make_body(X[:1], "r"))
    path = "/v2/models/digits/versions/1/infer"
    for _ in range(3):
        assert "x-stillhouse-cache" not in ask(gateway, make_body(X[:1], "r"), path=path).headers
    assert sample(gateway, 'stillhouse_gateway_pinned_total{model="digits",version="1"}') == 3
    gateway.stop()
    assert len(site.log()) == 3


def test_a_known_body_opens_nothing_without_the_right_token(start, site, models, make_body, ask, tmp_path):
    tokens = tmp_path / "tokens.json"
    digests = {role: [hashlib.sha256(role.encode()).hexdigest()] for role in ("infer", "feedback")}
    tokens.write_bytes(orjson.dumps(digests))
    gateway = start(cache_bytes=1_000_000, tokens=tokens)
    site.wait_for(site.route(site.put(models.linear())))
    for _ in range(3):
        assert ask(gateway, make_body(X[:1]), "Authorization: Bearer infer").status == 200
        assert ask(gateway, make_body(X[:1])).status == 401
        assert ask(gateway, make_body(X[:1]), "Authorization: Bearer feedback").status == 403


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_inputs_of_the_sample_are_logged_however_often_they_come(start, site, models, make_body, ask, share):
    gateway = start(cache_bytes=1_000_000, sample_inputs=share)
    site.wait_for(site.route(site.put(models.linear())))
    ids = [ask(gateway, make_body(X[:2])).headers["x-stillhouse-request-id"] for _ in range(40)]
    gateway.stop()
    kept = [row for path in site.traffic.glob("digits/inputs/*/*.parquet") for row in pq.read_table(path).to_pylist()]
    expected = [one for one in ids if is_sampled(one, share)]
    assert Counter(row["request_id"] for row in kept) == dict.fromkeys(expected, 2)
    assert expected
    assert {row["input"] for row in kept} == {row.tobytes() for row in X[:2]}
    assert len(site.log()) == 80


def test_recalled_requests_are_not_shadowed(start, site, models, make_body, ask):
    gateway = start(cache_bytes=1_000_000)
    site.wait_for(site.route(site.put(models.linear()), site.put(models.linear(2)), shadow=True, rollout_id="r"))
    for _ in range(5):
        ask(gateway, make_body(X[:1]))
    gateway.stop()
    assert Counter((row["shadow"], row["cached"]) for row in site.log()) == {
        (False, False): 1, (True, False): 1, (False, True): 4
    }  # fmt: skip


def test_every_request_is_in_the_access_log(start, site, models, make_body, ask, caplog):
    gateway = start(cache_bytes=1_000_000, access_log=True)
    site.wait_for(site.route(site.put(models.linear())))
    with caplog.at_level("INFO", logger="infra.gateway.requests"):
        for _ in range(4):
            ask(gateway, make_body(X[:1], "r"))
    lines = [record.fields for record in caplog.records if record.name == "infra.gateway.requests"]
    assert [line.get("request_id") for line in lines if line["path"] == gateway.path] == ["r"] * 4


def test_requests_sent_at_once_on_one_connection_are_answered_in_their_order(gateway, models, make_body):
    known = make_body(X[:1], "known")
    with connect(gateway) as connection:
        for _ in range(3):
            connection.sendall(post(gateway.path, known))
            read(connection)
        order = [known, make_body(X[1:2], "new"), known, known, make_body(X[2:3], "newer"), known]
        connection.sendall(b"".join(post(gateway.path, body) for body in order))
        stream = connection.makefile("rb")
        ids = []
        for _ in order:
            status = stream.readline()
            assert status.startswith(b"HTTP/1.1 200"), status
            length = 0
            while (line := stream.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            ids.append(orjson.loads(stream.read(length))["id"])
    assert ids == ["known", "new", "known", "known", "newer", "known"]


@pytest.mark.parametrize(("version", "headers"), [("1.1", ["Connection: close"]), ("1.0", [])])
def test_a_connection_that_is_to_end_ends_with_a_recalled_answer(gateway, make_body, version, headers):
    for _ in range(4):
        with connect(gateway) as connection:
            connection.sendall(post(gateway.path, make_body(X[:1], "r"), headers, version))
            reply = read(connection)
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert "date" in reply.headers
            assert connection.recv(1) == b""


def test_rubbish_after_a_known_request_costs_that_connection_alone(gateway, make_body):
    body = make_body(X[:1], "r")
    for _ in range(3):
        gateway.http.post(gateway.path, content=body)
    with connect(gateway) as connection:
        connection.sendall(post(gateway.path, body) + b"rubbish\r\n\r\n")
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    assert received.startswith(b"HTTP/1.1 ")
    assert gateway.http.post(gateway.path, content=body).headers["x-stillhouse-cache"] == "hit"


def test_nothing_is_recalled_once_the_gateway_begins_nothing_new():
    admission = Admission(num_threads=1, max_queue=1, max_uploads=1, deadline_s=1.0)
    admission.closed = True
    table = SimpleNamespace(get=lambda name: pytest.fail("looked for"))
    recall = Recall(table, None, None, admission, None, sample_share=0.0)
    assert recall.at_once({"method": "POST", "path": "/v2/models/m/infer", "headers": []}, b"{}") is None


def test_what_fails_unforeseen_leaves_the_request_to_its_usual_way(caplog):
    def fail(name):
        raise ValueError("unforeseen")

    admission = Admission(num_threads=1, max_queue=1, max_uploads=1, deadline_s=1.0)
    access = SimpleNamespace(check=lambda headers, role: fail("m"))
    recall = Recall(SimpleNamespace(get=lambda name: "served"), None, None, admission, access, sample_share=0.0)
    assert recall.at_once({"method": "POST", "path": "/v2/models/m/infer", "headers": []}, b"{}") is None
    assert "goes its usual way" in caplog.text


def test_parsers_that_would_read_a_body_otherwise_have_another_identity():
    def identity(input_name="x", outputs=("y",), max_rows=8, **changes):
        signature = SIGNATURE.model_copy(update=changes)
        return InferenceParser(signature, input_name, frozenset(outputs), max_rows).identity

    others = [
        identity(input_name="z"), identity(outputs=("y", "z")), identity(max_rows=9), identity(input_shape=(2, 2)),
        identity(input_dtype="int64"), identity(vocab_size=7), identity(class_names=("a", "b")),
    ]  # fmt: skip
    assert len({identity(), *others}) == 1 + len(others)
    assert identity() == identity()


def test_a_route_of_both_arms_says_in_its_headers_which_of_them_answered():
    arms = Arm(digest="1" * 64, version=1), Arm(digest="2" * 64, version=2)
    route = Route(model_name="m", signature=SIGNATURE, champion=arms[0], challenger=arms[1], weight=20.0)
    headers = dict(ServedRoute(route, 7, None, None, None).headers["challenger", "champion"])
    assert headers == {
        b"x-stillhouse-arm": b"challenger",
        b"x-stillhouse-served-by": b"champion",
        b"x-stillhouse-model-digest": b"1" * 64,
        b"x-stillhouse-model-version": b"1",
        b"x-stillhouse-route-version": b"7",
    }


def test_a_route_that_names_flow_runs_says_in_its_headers_which_one_made_the_answering_model():
    arms = Arm(digest="1" * 64, version=1, run_id="old"), Arm(digest="2" * 64, version=2, run_id="new")
    route = Route(model_name="m", signature=SIGNATURE, champion=arms[0], challenger=arms[1], weight=20.0)
    served = ServedRoute(route, 7, None, None, None)
    assert dict(served.headers["challenger", "champion"])[b"x-stillhouse-run-id"] == b"old"
    assert dict(served.headers["challenger", "challenger"])[b"x-stillhouse-run-id"] == b"new"


def test_a_flow_run_cannot_bring_other_headers_along():
    with pytest.raises(ValueError, match="run_id"):
        Arm(digest="1" * 64, version=1, run_id="a\r\nx-other: 1")


async def test_a_body_is_never_known_as_what_another_routes_parser_read(tmp_path, make_body):
    """The route may change between looking for a body and the task that reads it."""
    model = SimpleNamespace(
        digest="1" * 64, outputs=(TensorSpec("y", "FP32", (-1, 4)),), batch_rows=1,
        expected_ms=lambda num_rows: 0.0, run=lambda inputs, num_requests=1: [inputs],
    )  # fmt: skip
    route = Route(model_name="m", signature=SIGNATURE, champion=Arm(digest="1" * 64, version=1))
    before, after = (InferenceParser(SIGNATURE, name, frozenset({"y"}), 8) for name in ("old", "x"))
    admission = Admission(num_threads=1, max_queue=9, max_uploads=1, deadline_s=1.0)
    gateway = Gateway(GatewayConfig(store=tmp_path, traffic=tmp_path, cache_bytes=100_000), admission, None)
    gateway.components.table.put(ServedRoute(route, 2, model, None, after))
    body = make_body(X[:1], "r")
    stale = gateway.recall.key_of(ServedRoute(route, 1, model, None, before), OPEN_INFERENCE, {}, body)

    async def receive():
        return {"type": "http.request", "body": body}

    for _ in range(3):
        status, _, _ = await gateway.infer({"path_params": {"model": "m"}, "headers": [], BODY_KEY: stale}, receive)
        assert status == 200
    assert gateway.components.cache.get_body(stale) is None
    assert gateway.components.cache.get_body(stale._replace(parser=after.identity)) is not None
    gateway.components.dispatcher.close()
