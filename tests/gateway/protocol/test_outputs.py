import math

import numpy as np
import orjson

from infra.gateway.protocol.messages import InferRequest, TensorSpec, WantedOutputs
from infra.gateway.protocol.outputs import encode_response


def test_encode_response_gives_only_the_outputs_that_were_asked_for():
    specs = (TensorSpec("logits", "FP32", (-1, 2)), TensorSpec("features", "FP32", (-1, 3)))
    outputs = [np.array([[0.1, -2]], np.float32), np.zeros((1, 3), np.float32)]
    wanted = InferRequest("r", np.zeros((1, 3), np.float32), WantedOutputs(frozenset({"logits"})))
    encoded = encode_response("m", 7, wanted, specs, outputs)
    assert encoded.json_bytes is None
    document = orjson.loads(encoded.body)
    assert document == {
        "model_name": "m",
        "model_version": "7",
        "id": "r",
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [0.1, -2.0]}],
    }
    assert math.isclose(np.float32(document["outputs"][0]["data"][0]), np.float32(0.1))


def test_encode_response_puts_bytes_after_the_json_in_the_order_of_the_outputs():
    specs = (
        TensorSpec("logits", "FP32", (-1, 2)),
        TensorSpec("ids", "INT64", (-1, 1)),
        TensorSpec("z", "FP32", (-1, 1)),
    )
    outputs = [np.array([[0.1, -2]], np.float32), np.array([[7]]), np.array([[3.5]], np.float32)]
    wanted = InferRequest("r", np.zeros((1, 3), np.float32), WantedOutputs(binary=frozenset({"logits", "ids"})))
    body, json_bytes = encode_response("m", 7, wanted, specs, outputs)
    described = orjson.loads(body[:json_bytes])["outputs"]
    assert [tensor.get("parameters") for tensor in described] == [
        {"binary_data_size": 8},
        {"binary_data_size": 8},
        None,
    ]
    assert described[2]["data"] == [3.5]
    assert "data" not in described[0]
    assert body[json_bytes:] == np.array([0.1, -2], "<f4").tobytes() + np.array([7], "<i8").tobytes()


def test_encode_response_gives_mlflow_its_predictions():
    asked = InferRequest("r", np.zeros((2, 3), np.float32), WantedOutputs(), as_predictions=True)
    specs = (TensorSpec("logits", "FP32", (-1, 2)),)
    encoded = encode_response("m", 7, asked, specs, [np.array([[0.5, -2], [1, 3]], np.float32)])
    assert orjson.loads(encoded.body) == {"predictions": [[0.5, -2.0], [1.0, 3.0]]}
