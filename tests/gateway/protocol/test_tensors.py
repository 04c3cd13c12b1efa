import numpy as np
import orjson
import pytest

from infra.gateway.errors import RequestError
from infra.gateway.protocol.inference import InferenceParser
from infra.gateway.protocol.messages import WantedOutputs
from tasks.contracts.route import ModelSignature

IMAGE = ModelSignature(task="classification", input_shape=(1, 2, 3), input_dtype="float32", class_names=("a", "b"))
TOKENS = ModelSignature(task="classification", input_shape=(3,), input_dtype="int64", class_names=("a", "b"))


def parser(signature=IMAGE, max_batch_rows=4):
    return InferenceParser(signature, "x", frozenset({"logits"}), max_batch_rows)


def request(**changes):
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 1, 2, 3], "data": list(range(12))}
    return {"inputs": [tensor | changes]}


def parse(document, signature=IMAGE):
    return parser(signature).parse(document if isinstance(document, bytes) else orjson.dumps(document))


def test_parse_gives_the_tensor_when_data_is_flat():
    parsed = parse(request())
    assert parsed.inputs.dtype == np.float32
    assert np.array_equal(parsed.inputs, np.arange(12, dtype=np.float32).reshape(2, 1, 2, 3))
    assert parsed.outputs == WantedOutputs()


def test_parse_gives_the_same_tensor_when_data_is_nested():
    nested = np.arange(12).reshape(2, 1, 2, 3).tolist()
    assert np.array_equal(parse(request(data=nested)).inputs, parse(request()).inputs)


def test_parse_rounds_to_float32_exactly_like_numpy():
    values = [0.1, 1 / 3, 1e-45, 3.4e38, -0.0, 16777217]
    parsed = parse(request(shape=[1, 1, 2, 3], data=values))
    assert parsed.inputs.tobytes() == np.array(values, np.float32).tobytes()


def test_parse_keeps_integers_exact_when_the_model_takes_int64():
    values = [2**63 - 1, -(2**63), 0]
    parsed = parse({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 3], "data": values}]}, TOKENS)
    assert parsed.inputs.tolist() == [values]


@pytest.mark.parametrize("token", [-1, 30, 2**40])
def test_parse_refuses_a_token_that_the_model_does_not_know(token):
    signature = TOKENS.model_copy(update={"vocab_size": 30})
    good = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [2, 3], "data": [0, 29, 1, 2, 3, 4]}]}
    bad = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [2, 3], "data": [0, 29, 1, 2, 3, token]}]}
    assert parse(good, signature).inputs.max() == 29
    with pytest.raises(RequestError, match="token ids from 0 to 29") as refused:
        parse(bad, signature)
    assert refused.value.status == 400


@pytest.mark.parametrize("values", [[0.5, 1, 2], [2**63, 0, 0], [True, 0, 0]])
def test_parse_refuses_values_that_are_no_int64_when_the_model_takes_int64(values):
    with pytest.raises(RequestError):
        parse({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 3], "data": values}]}, TOKENS)
