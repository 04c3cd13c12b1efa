import httpx
import numpy as np
import orjson
import pytest
from pydantic import SecretStr

from tasks.adapters.gateway_client import GatewayClient
from tasks.contracts.errors import DataError, ModelError, ServiceUnavailableError, UserError

HEAD = {
    "X-Stillhouse-Request-Id": "r",
    "X-Stillhouse-Arm": "challenger",
    "X-Stillhouse-Served-By": "champion",
    "X-Stillhouse-Model-Digest": "d",
    "X-Stillhouse-Model-Version": "3",
    "X-Stillhouse-Route-Version": "7",
}
METADATA = {"name": "m", "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 2]}]}


def client(answer):
    return GatewayClient("http://gateway:1", transport=httpx.MockTransport(answer))


def answering(status, document):
    return client(lambda request: httpx.Response(status, json=document))


def test_infer_sends_the_protocols_request_and_reads_the_answer():
    seen = []

    def answer(request):
        if request.method == "GET":
            return httpx.Response(200, json=METADATA)
        seen.append((request.url.path, orjson.loads(request.content), request.headers.get("x-stillhouse-key")))
        output = {"name": "logits", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}
        return httpx.Response(200, json={"outputs": [output]}, headers=HEAD)

    with client(answer) as gateway:
        reply = gateway.infer("m", np.array([[0.1, 1], [2, 3]]), request_id="r", key="user")
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [2, 2], "data": [0.1, 1.0, 2.0, 3.0]}
    assert seen == [("/v2/models/m/infer", {"id": "r", "inputs": [tensor]}, "user")]
    assert reply.outputs.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (reply.arm, reply.served_by, reply.model_version, reply.route_version) == ("challenger", "champion", 3, 7)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, ModelError),
        (400, DataError),
        (413, DataError),
        (401, UserError),
        (403, UserError),
        (429, ServiceUnavailableError),
        (500, ServiceUnavailableError),
    ],
)
def test_a_refusal_becomes_the_error_that_says_who_must_act(status, error):
    with pytest.raises(error, match="because"):
        answering(status, {"error": "because"}).metadata("m")


def test_a_reply_that_is_no_json_is_still_a_named_error():
    with pytest.raises(ServiceUnavailableError, match="HTTP 502"):
        client(lambda request: httpx.Response(502, text="<html>")).feedback("m", "r", [1])


def test_an_unreachable_gateway_is_named_with_its_setting():
    with GatewayClient("http://127.0.0.1:1") as gateway:
        assert not gateway.ready()
        with pytest.raises(ServiceUnavailableError, match=r"http://127.0.0.1:1 .*STILLHOUSE_GATEWAY_URL"):
            gateway.metadata("m")


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False), (404, False)])
def test_ready_follows_the_health_check(status, ready):
    assert answering(status, {}).ready("m") is ready


def test_a_token_goes_with_every_request_and_is_named_when_it_is_missing():
    seen = []

    def answer(request):
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json=METADATA)

    transport = httpx.MockTransport(answer)
    with GatewayClient("http://gateway:1", token=SecretStr("t"), transport=transport) as gateway:
        gateway.metadata("m")
    assert seen == ["Bearer t"]
    with pytest.raises(UserError, match="STILLHOUSE_GATEWAY_TOKEN"):
        answering(401, {"error": "because"}).metadata("m")
