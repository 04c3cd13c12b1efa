import numpy as np
import onnx
import pytest

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.runners import OnnxRunner, TorchRunner, answer, make_runner
from tasks.models.architecture import Network

LINEAR = Architecture(factory="torch.nn:Linear", kwargs={"in_features": 4, "out_features": 3})


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.create(LINEAR, seed=0)


def onnx_of(network: Network) -> bytes:
    text = """<ir_version: 10, opset_import: ["" : 21]> m (float[batch, 4] input) => (float[batch, 3] output) {
        output = Gemm <transB = 1> (input, weight, bias)
    }"""
    model = onnx.parser.parse_model(text)
    for name, value in network.module.state_dict().items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.numpy(), name))
    return model.SerializeToString()


def test_runners_agree_when_they_run_the_same_network(network):
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    onnx_runner, torch_runner = make_runner(onnx_of(network), "onnx"), make_runner(network.to_bytes(), "torch")
    assert isinstance(onnx_runner, OnnxRunner)
    assert isinstance(torch_runner, TorchRunner)
    np.testing.assert_allclose(onnx_runner.run(rows), torch_runner.run(rows), rtol=1e-5, atol=1e-6)


def test_make_runner_refuses_when_the_format_is_not_the_models(network):
    with pytest.raises(ModelError, match="not a Stillhouse torch model"):
        make_runner(onnx_of(network), "torch")
    with pytest.raises(ModelError, match="onnxruntime cannot load"):
        make_runner(network.to_bytes(), "onnx")


class Recorder:
    """Answers with given outputs and keeps the rows that it was given."""

    def __init__(self, outputs: np.ndarray) -> None:
        self.outputs = outputs
        self.rows = np.empty(0)

    def run(self, rows: np.ndarray) -> np.ndarray:
        self.rows = rows
        return self.outputs


def test_answer_gives_classes_and_probabilities():
    classes, probabilities = answer(Recorder(np.log(np.float32([[1, 3], [4, 1]]))), np.zeros((2, 4), np.float32))
    np.testing.assert_array_equal(classes, [1, 0])
    np.testing.assert_allclose(probabilities, [[0.25, 0.75], [0.8, 0.2]], rtol=1e-6)


def test_answer_gives_the_values_when_there_is_one_output():
    values, _ = answer(Recorder(np.float32([[1.5], [-2.0]])), np.zeros((2, 4), np.float32))
    np.testing.assert_array_equal(values, [1.5, -2.0])


def test_answer_copies_the_rows_into_one_block_when_they_are_a_view():
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::2]
    runner = Recorder(np.zeros((2, 2), np.float32))
    answer(runner, rows)
    np.testing.assert_array_equal(runner.rows, rows)
    assert runner.rows.flags.c_contiguous
    assert not np.shares_memory(runner.rows, rows)
