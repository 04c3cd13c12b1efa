import numpy as np
import orjson
import pytest

from infra.gateway.errors import RequestError
from infra.gateway.protocol.invocations import parse_invocation
from infra.gateway.protocol.tensors import TensorReader
from tasks.contracts.route import ModelSignature

IMAGE = ModelSignature(task="classification", input_shape=(1, 2, 3), input_dtype="float32", class_names=("a", "b"))
READER = TensorReader(IMAGE, "x", 4)
ROWS = np.arange(12, dtype=np.float32).reshape(2, 1, 2, 3).tolist()


@pytest.mark.parametrize("document", [{"inputs": ROWS}, {"instances": ROWS}, {"inputs": {"x": ROWS}}])
def test_parse_invocation_takes_what_mlflow_clients_send(document):
    parsed = parse_invocation(orjson.dumps(document), READER)
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
        parse_invocation(orjson.dumps(document), READER)
    assert refusal.value.status == 400
