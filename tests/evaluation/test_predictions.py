import numpy as np
import onnx
import pytest

from tasks.contracts.errors import ModelError
from tasks.evaluation.predictions import pack_outputs, predict, unpack_outputs


def model(operation: str) -> bytes:
    graph = f"(float[batch, 2] input) => (float[batch, width] output) {{ output = {operation} }}"
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> m {graph}').SerializeToString()


ROWS = np.random.default_rng(0).normal(size=(23, 2)).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_predict_gives_every_row_in_order_whatever_the_batch_size(batch_size):
    outputs = predict(model("Mul (input, input)"), ROWS, 2, batch_size=batch_size)
    np.testing.assert_array_equal(outputs, ROWS * ROWS)


def test_predict_gives_float32_when_the_model_gives_another_type():
    half = '<ir_version: 10, opset_import: ["" : 21]> m (float[n, 2] x) => (float16[n, 2] y) { y = Cast <to = 10> (x) }'
    outputs = predict(onnx.parser.parse_model(half).SerializeToString(), ROWS, 2)
    assert outputs.dtype == np.float32
    np.testing.assert_array_equal(outputs, ROWS.astype(np.float16))


def test_predict_names_both_shapes_when_the_model_is_for_other_data():
    with pytest.raises(ModelError, match=r"\(23, 2\) for 23 rows; the data set needs \(23, 10\)"):
        predict(model("Identity (input)"), ROWS, 10)


def test_predict_counts_the_rows_when_outputs_are_not_finite():
    num_negative = int((ROWS < 0).any(axis=1).sum())
    with pytest.raises(ModelError, match=f"NaN or infinite outputs for {num_negative} of 23 rows"):
        predict(model("Sqrt (input)"), ROWS, 2)


def test_pack_outputs_gives_equal_bytes_and_the_same_array_back():
    assert pack_outputs(ROWS) == pack_outputs(ROWS.copy())
    assert pack_outputs(ROWS) != pack_outputs(ROWS[::-1])
    np.testing.assert_array_equal(unpack_outputs(pack_outputs(ROWS)), ROWS)
    assert unpack_outputs(pack_outputs(ROWS)).dtype == np.float32
