import math

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.gateway.errors import RequestError
from infra.gateway.protocol import (
    InferenceParser,
    InferRequest,
    TensorSpec,
    WantedOutputs,
    encode_response,
    parse_feedback,
    parse_json_length,
)
from tasks.contracts.route import ModelSignature

IMAGE = ModelSignature(task="classification", input_shape=(1, 2, 3), input_dtype="float32", class_names=("a", "b"))
TOKENS = ModelSignature(task="classification", input_shape=(3,), input_dtype="int64", class_names=("a", "b"))
PRICE = ModelSignature(task="regression", input_shape=(3,), input_dtype="float32", class_names=())


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


def test_parse_makes_up_different_ids_when_none_is_given():
    assert parse(request()).request_id != parse(request()).request_id


def test_parse_keeps_id_and_wanted_outputs():
    parsed = parse(request() | {"id": "my-1", "outputs": [{"name": "logits"}], "parameters": {"priority": True}})
    assert (parsed.request_id, parsed.outputs) == ("my-1", WantedOutputs(frozenset({"logits"})))


SECRET = "s3cret-input"
REFUSED = {
    "not json": b"{" + SECRET.encode(),
    "empty": b"",
    "not utf-8": b'{"id": "\xff\xfe"}',
    "lone surrogate": b'{"id": "\\ud800"}',
    "NaN": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1,1,2,3], "data": [NaN,1,2,3,4,5]}]}',
    "Infinity": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1,1,2,3], "data": [Infinity,1,2,3,4,5]}]}',
    "too deep": b"[" * 5000 + b"]" * 5000,
    "beyond float64": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1,1,2,3], "data": [1e999,1,2,3,4,5]}]}',
    "not an object": [SECRET],
    "no inputs": {"id": SECRET},
    "empty inputs": {"inputs": []},
    "inputs not a list": {"inputs": {"x": 1}},
    "input not an object": {"inputs": [SECRET]},
    "duplicate names": {"inputs": [request()["inputs"][0]] * 2},
    "wrong name": request(name=SECRET),
    "name not text": request(name=[1]),
    "wrong datatype": request(datatype="FP64"),
    "no datatype": request(datatype=None),
    "no shape": request(shape=None),
    "wrong shape": request(shape=[2, 3, 2, 1]),
    "rank too small": request(shape=[12]),
    "empty shape": request(shape=[]),
    "shape of floats": request(shape=[2.0, 1, 2, 3]),
    "shape of booleans": request(shape=[2, True, 2, 3]),
    "shape of text": request(shape=[2, "1", 2, 3]),
    "negative rows": request(shape=[-1, 1, 2, 3]),
    "no rows": request(shape=[0, 1, 2, 3], data=[]),
    "too many rows": request(shape=[5, 1, 2, 3], data=[0] * 30),
    "absurdly many rows": request(shape=[2**62, 1, 2, 3]),
    "too few values": request(data=[0] * 11),
    "too many values": request(data=[0] * 13),
    "no data": request(data=None),
    "data is text": request(data=SECRET),
    "values are text": request(data=["1"] * 12),
    "values are null": request(data=[None] * 12),
    "values are booleans": request(data=[True] * 12),
    "one value is a boolean": request(data=[0.5] * 11 + [False]),
    "values are objects": request(data=[{}] * 12),
    "beyond float32": request(data=[1e300] * 12),
    "ragged": request(data=[[[[0, 1, 2], [3, 4]]], [[[0, 1, 2], [3, 4, 5]]]]),
    "half nested": request(data=[[0] * 6, [0] * 6]),
    "nested too deep": request(data=np.zeros((2, 1, 2, 3, 1)).tolist()),
    "mixed nesting": request(data=[[[[0, 1, 2], [3, 4, 5]]], 7]),
    "id not text": request() | {"id": 7},
    "id empty": request() | {"id": ""},
    "id too long": request() | {"id": "i" * 129},
    "id with a line break": request() | {"id": "a\r\nX-Evil: 1"},
    "id not ascii": request() | {"id": "ü"},
    "parameters not an object": request() | {"parameters": [1]},
    "outputs not a list": request() | {"outputs": SECRET},
    "unknown output": request() | {"outputs": [{"name": SECRET}]},
    "output asked twice": request() | {"outputs": [{"name": "logits"}] * 2},
    "output without a name": request() | {"outputs": [{}]},
}


@pytest.mark.parametrize("document", REFUSED.values(), ids=REFUSED.keys())
def test_parse_refuses_with_400_and_repeats_nothing_when_the_request_is_wrong(document):
    with pytest.raises(RequestError) as refusal:
        parse(document)
    assert refusal.value.status == 400
    assert 10 < len(refusal.value.message) < 200
    assert SECRET not in refusal.value.message


@pytest.mark.parametrize("values", [[0.5, 1, 2], [2**63, 0, 0], [True, 0, 0]])
def test_parse_refuses_values_that_are_no_int64_when_the_model_takes_int64(values):
    with pytest.raises(RequestError):
        parse({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 3], "data": values}]}, TOKENS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)
near_requests = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "outputs": json_values,
        "parameters": json_values,
        "inputs": json_values
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "name": st.just("x") | json_values,
                    "datatype": st.just("FP32") | json_values,
                    "shape": st.just([1, 1, 2, 3]) | json_values,
                    "data": st.lists(st.floats() | st.integers(), min_size=6, max_size=6) | json_values,
                },
            ),
            max_size=2,
        ),
    },
)


@settings(deadline=None, max_examples=300)
@given(near_requests)
def test_parse_gives_a_finite_tensor_or_refuses_when_given_any_json(document):
    try:
        body = orjson.dumps(document)
    except orjson.JSONEncodeError:  # integers beyond 64 bits
        return
    try:
        parsed = parse(body)
    except RequestError:  # anything else fails the test
        return
    assert parsed.inputs.shape == (1, 1, 2, 3)
    assert np.isfinite(parsed.inputs).all()


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_parse_refuses_when_given_any_bytes(body):
    with pytest.raises(RequestError):
        parse(body)


def test_parse_feedback_keeps_unknown_labels_as_none():
    feedback = parse_feedback(b'{"id": "r", "labels": [1, null, 0]}', IMAGE, 4)
    assert feedback == ("r", [1.0, None, 0.0])


def test_parse_feedback_takes_numbers_when_the_task_is_regression():
    assert parse_feedback(b'{"id": "r", "labels": [1.5, -2]}', PRICE, 4).labels == [1.5, -2.0]


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"labels": [1]}',
        b'{"id": null, "labels": [1]}',
        b'{"id": "r"}',
        b'{"id": "r", "labels": []}',
        b'{"id": "r", "labels": 1}',
        b'{"id": "r", "labels": [0, 0, 0, 0, 0]}',
        b'{"id": "r", "labels": [2]}',
        b'{"id": "r", "labels": [-1]}',
        b'{"id": "r", "labels": [0.5]}',
        b'{"id": "r", "labels": [true]}',
        b'{"id": "r", "labels": ["a"]}',
    ],
)
def test_parse_feedback_refuses_with_400_when_it_is_wrong(body):
    with pytest.raises(RequestError) as refusal:
        parse_feedback(body, IMAGE, 4)
    assert refusal.value.status == 400


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


ROWS = np.arange(12, dtype=np.float32).reshape(2, 1, 2, 3).tolist()


@pytest.mark.parametrize("document", [{"inputs": ROWS}, {"instances": ROWS}, {"inputs": {"x": ROWS}}])
def test_parse_invocation_takes_what_mlflow_clients_send(document):
    parsed = parser().parse_invocation(orjson.dumps(document))
    np.testing.assert_array_equal(parsed.inputs, ROWS)
    assert parsed.as_predictions


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"dataframe_split": {"columns": ["a"], "data": [[1]]}},
        {"inputs": ROWS, "instances": ROWS},
        {"inputs": {"y": ROWS}},
        {"inputs": {"x": ROWS, "y": ROWS}},
        {"inputs": []},
        {"inputs": [1, 2, 3]},
        {"inputs": ROWS * 3},
        {"inputs": [ROWS[0], ROWS[0][0]]},
        {"inputs": [[[["a"] * 3] * 2]]},
        {"inputs": [[[[True] * 3] * 2]]},
        {"inputs": "rows"},
    ],
)
def test_parse_invocation_refuses_with_400_what_it_cannot_read(document):
    with pytest.raises(RequestError) as refusal:
        parser().parse_invocation(orjson.dumps(document))
    assert refusal.value.status == 400


def test_encode_response_gives_mlflow_its_predictions():
    asked = InferRequest("r", np.zeros((2, 3), np.float32), WantedOutputs(), as_predictions=True)
    specs = (TensorSpec("logits", "FP32", (-1, 2)),)
    encoded = encode_response("m", 7, asked, specs, [np.array([[0.5, -2], [1, 3]], np.float32)])
    assert orjson.loads(encoded.body) == {"predictions": [[0.5, -2.0], [1.0, 3.0]]}
