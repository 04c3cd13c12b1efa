import numpy as np
import onnx
import pytest

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.memory import measure_footprints
from tasks.models.architecture import Network

ROWS = np.zeros((8, 64), np.float32)
MIB = 2**20


def linear_onnx(num_outputs: int) -> bytes:
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    m (float[batch, 64] input) => (float[batch, {num_outputs}] output) {{ output = MatMul (input, weight) }}"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).normal(size=(64, num_outputs)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    return model.SerializeToString()


def linear_torch(num_outputs: int, factory: str = "torch.nn:Linear") -> bytes:
    architecture = Architecture(factory=factory, kwargs={"in_features": 64, "out_features": num_outputs})
    return Network.create(architecture, seed=0).to_bytes()


def test_measure_footprints_finds_the_weights_when_one_model_has_many_more():
    num_outputs = 128 * 1024  # 32 MiB of weights
    small, large = measure_footprints([(linear_onnx(4), "onnx"), (linear_onnx(num_outputs), "onnx")], ROWS)
    assert 0 < small.peak_memory_bytes < 16 * MIB
    assert large.peak_memory_bytes > small.peak_memory_bytes + 30 * MIB
    assert 0 < small.cold_start_ms < large.cold_start_ms


def test_measure_footprints_leaves_importing_torch_out_when_the_model_is_torch():
    (found,) = measure_footprints([(linear_torch(4), "torch")], ROWS)
    assert found.peak_memory_bytes < 32 * MIB  # torch itself takes some 200 MiB and seconds
    assert 0 < found.cold_start_ms < 1000


def test_measure_footprints_gives_the_reason_when_a_model_does_not_load():
    with pytest.raises(ModelError, match=r"in a fresh process: .*onnxruntime cannot load"):
        measure_footprints([(b"no model", "onnx")], ROWS, num_cpus=2)


def test_measure_footprints_gives_the_reason_when_the_rows_do_not_fit():
    with pytest.raises(ModelError, match="in a fresh process: "):
        measure_footprints([(linear_onnx(4), "onnx")], ROWS[:, :3])
