import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.gateway.errors import RequestError
from infra.gateway.protocol.framing import parse_json_length
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


VALUES = np.arange(12, dtype=np.float32).reshape(2, 1, 2, 3) / 7


def binary(values=VALUES, *, outputs=None, parameters=None, **changes):
    """A body with the values after the JSON, and the JSON's length."""
    data = values if isinstance(values, bytes) else values.tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 1, 2, 3], "parameters": {"binary_data_size": len(data)}}
    document = {"inputs": [tensor | changes]}
    document |= {"outputs": outputs} if outputs is not None else {}
    document |= {"parameters": parameters} if parameters is not None else {}
    text = orjson.dumps(document)
    return text + data, len(text)


def test_parse_takes_values_that_follow_the_json():
    parsed = parser().parse(*binary())
    assert parsed.inputs.dtype == np.float32
    assert parsed.inputs.flags.aligned
    np.testing.assert_array_equal(parsed.inputs, VALUES)


def test_parse_takes_json_data_when_the_length_is_given_but_nothing_follows():
    body = orjson.dumps(request())
    np.testing.assert_array_equal(parser().parse(body, len(body)).inputs, parse(request()).inputs)


def test_parse_takes_a_body_of_bare_values_and_answers_in_kind():
    parsed = parser().parse(VALUES.tobytes(), 0)
    np.testing.assert_array_equal(parsed.inputs, VALUES)
    assert parsed.outputs == WantedOutputs(binary=frozenset({"logits"}))
    assert parsed.request_id


@pytest.mark.parametrize(
    ("parameters", "outputs", "wanted"),
    [
        (None, None, WantedOutputs()),
        ({"binary_data_output": True}, None, WantedOutputs(binary=frozenset({"logits"}))),
        (None, [{"name": "logits", "parameters": {"binary_data": True}}],
         WantedOutputs(frozenset({"logits"}), frozenset({"logits"}))),
        ({"binary_data_output": True}, [{"name": "logits"}],
         WantedOutputs(frozenset({"logits"}), frozenset({"logits"}))),
        ({"binary_data_output": True}, [{"name": "logits", "parameters": {"binary_data": False}}],
         WantedOutputs(frozenset({"logits"}))),
        ({"binary_data_output": True}, [], WantedOutputs(binary=frozenset({"logits"}))),
    ],
)  # fmt: skip
def test_parse_keeps_which_outputs_are_wanted_as_bytes(parameters, outputs, wanted):
    assert parser().parse(*binary(parameters=parameters, outputs=outputs)).outputs == wanted


@pytest.mark.parametrize(
    ("body", "json_bytes"),
    [
        binary(VALUES.tobytes()[:-1]),
        binary(VALUES.tobytes() + b"x"),
        binary(VALUES[:1]),
        binary(parameters={"binary_data_output": 1}),
        binary(outputs=[{"name": "logits", "parameters": {"binary_data": "yes"}}]),
        binary(outputs=[{"name": "logits", "parameters": {"classification": 2}}]),
        binary(outputs=[{"name": "logits", "parameters": []}]),
        binary(np.full(12, np.nan, np.float32)),
        binary(data=[0] * 12),
        (binary()[0], binary()[1] + 1),
        (binary()[0], 10**6),
        (orjson.dumps(request()) + b"rest", len(orjson.dumps(request()))),
        (VALUES.tobytes()[:-1], 0),
        (b"", 0),
        (np.zeros(5 * 6, np.float32).tobytes(), 0),
    ],
)
def test_parse_refuses_with_400_when_bytes_and_json_do_not_fit(body, json_bytes):
    with pytest.raises(RequestError) as refusal:
        parser().parse(body, json_bytes)
    assert refusal.value.status == 400


def test_parse_refuses_token_ids_in_bytes_that_the_model_does_not_know():
    signature = TOKENS.model_copy(update={"vocab_size": 30})
    assert parser(signature).parse(np.array([0, 29, 1], np.int64).tobytes(), 0).inputs.tolist() == [[0, 29, 1]]
    with pytest.raises(RequestError, match="token ids from 0 to 29"):
        parser(signature).parse(np.array([0, 30, 1], np.int64).tobytes(), 0)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 220))
def test_parse_refuses_or_gives_a_finite_tensor_when_given_any_bytes_and_length(body, json_bytes):
    try:
        parsed = parser().parse(body, json_bytes)
    except RequestError:
        return
    assert np.isfinite(parsed.inputs).all()
    assert parsed.inputs.shape[1:] == (1, 2, 3)


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"0x10", b"9" * 13, "\u0661".encode()])
def test_parse_json_length_refuses_what_is_no_number(value):
    with pytest.raises(RequestError, match="number of bytes"):
        parse_json_length(value)
