import numpy as np
import onnx
import pytest

from tasks.contracts.errors import ModelError, OutOfMemoryError
from tasks.evaluation.runtime_session import make_session, run_outputs, run_rows

DOUBLE = """
<ir_version: 10, opset_import: ["" : 21]>
double (float[batch, 3] input) => (float[batch, 3] output) { output = Add(input, input) }
"""


@pytest.fixture
def double() -> bytes:
    return onnx.parser.parse_model(DOUBLE).SerializeToString()


@pytest.mark.parametrize("num_rows", [1, 7, 32])
def test_run_rows_gives_every_row_in_order_when_batches_do_not_divide_them(double, num_rows):
    x = np.arange(num_rows * 3, dtype=np.float32).reshape(num_rows, 3)
    np.testing.assert_array_equal(run_rows(make_session(double), x, batch_size=5), 2 * x)


def test_run_rows_keeps_the_output_shape_when_there_are_no_rows(double):
    assert run_rows(make_session(double), np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_make_session_uses_one_thread_and_never_spins(double):
    options = make_session(double).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_make_session_prints_nothing_when_it_writes_the_optimised_graph(double, tmp_path, capfd):
    make_session(double, optimized_model=tmp_path / "optimised.onnx")
    assert (tmp_path / "optimised.onnx").stat().st_size > 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("broken", [b"", b"not a model", b"\x08\x0a\x12\x05"])
def test_make_session_names_the_size_when_the_bytes_are_no_model(broken):
    with pytest.raises(ModelError, match=f"of {len(broken)} bytes"):
        make_session(broken)


@pytest.mark.parametrize("batch", [np.zeros((2, 4), np.float32), np.zeros((2, 3), np.int64)])
def test_run_outputs_names_type_and_shape_when_the_rows_do_not_fit(double, batch):
    with pytest.raises(ModelError, match=rf"rows {batch.dtype}\[{batch.shape[1]}\]"):
        run_outputs(make_session(double), batch)


def test_run_outputs_raises_out_of_memory_when_a_batch_does_not_fit():
    class FullSession:
        def get_inputs(self):
            return [type("Input", (), {"name": "input"})]

        def run(self, names, feed):
            raise RuntimeError("Failed to allocate memory for requested buffer of size 99999999999")

    with pytest.raises(OutOfMemoryError, match="allocate memory"):
        run_outputs(FullSession(), np.zeros((1, 3), np.float32))
