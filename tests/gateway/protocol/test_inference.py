import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.gateway.errors import RequestError
from infra.gateway.protocol.inference import InferenceParser
from infra.gateway.protocol.messages import WantedOutputs
from tasks.contracts.route import ModelSignature

IMAGE = ModelSignature(task="classification", input_shape=(1, 2, 3), input_dtype="float32", class_names=("a", "b"))


def parser(signature=IMAGE, max_batch_rows=4):
    return InferenceParser(signature, "x", frozenset({"logits"}), max_batch_rows)


def request(**changes):
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 1, 2, 3], "data": list(range(12))}
    return {"inputs": [tensor | changes]}


def parse(document, signature=IMAGE):
    return parser(signature).parse(document if isinstance(document, bytes) else orjson.dumps(document))


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
