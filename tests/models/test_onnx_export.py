import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network
from tasks.models.onnx_export import OPSET, to_onnx

IMAGE = (1, 8, 8)


class ResidualNetwork(nn.Module):
    """Convolutions with batch norm, one residual sum, a mean over the pixels, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        return self.head(self.dropout(torch.relu(stem + self.block(stem)).mean((2, 3))))


def network_of(module: nn.Module) -> Network:
    return Network(Architecture(factory="their.package:network"), module)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    module = ResidualNetwork()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return network_of(module.train())


@pytest.fixture(scope="module")
def exported(network) -> bytes:
    return to_onnx(network, IMAGE, "float32")


@pytest.mark.parametrize("num_rows", [1, 7, 32])
def test_to_onnx_answers_as_the_network_in_evaluation_mode_for_any_batch(network, exported, num_rows):
    x = np.random.default_rng(num_rows).normal(size=(num_rows, *IMAGE)).astype(np.float32)
    network.module.eval()
    with torch.no_grad():
        expected = network.module(torch.from_numpy(x)).numpy()
    network.module.train()
    np.testing.assert_allclose(run_rows(make_session(exported), x), expected, atol=1e-5)


def test_to_onnx_folds_batch_norm_and_pools_globally(exported):
    operators = [node.op_type for node in onnx.load_from_string(exported).graph.node]
    assert operators == ["Conv", "Relu", "Conv", "Add", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


def test_to_onnx_gives_one_named_input_and_output_with_a_dynamic_batch(exported):
    model = onnx.load_from_string(exported)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"input": ["batch", 1, 8, 8], "output": ["batch", 3]}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]


def test_to_onnx_names_layers_by_the_path_of_their_module(exported):
    names = [node.name for node in onnx.load_from_string(exported).graph.node if node.op_type in ("Conv", "Gemm")]
    assert names == ["stem.0", "block.0", "head"]


def test_to_onnx_spends_under_a_kilobyte_on_what_is_not_weights(exported):
    graph = onnx.load_from_string(exported).graph
    assert len(exported) - sum(len(tensor.raw_data) for tensor in graph.initializer) < 1000


def test_to_onnx_gives_equal_bytes_when_networks_are_equal_and_leaves_them_alone(network, exported):
    before = network.to_bytes()
    assert to_onnx(network, IMAGE, "float32") == exported
    assert network.to_bytes() == before
    assert network.module.training


def test_to_onnx_is_silent(network, capfd, recwarn):
    to_onnx(network, IMAGE, "float32")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_to_onnx_pools_globally_when_the_network_keeps_the_axes():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = onnx.load_from_string(to_onnx(network_of(module), IMAGE, "float32"))
    assert [node.op_type for node in model.graph.node][:2] == ["Conv", "GlobalAveragePool"]


def test_to_onnx_leaves_other_means_alone():
    class ColumnMean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(2).flatten(1)

    exported = to_onnx(network_of(ColumnMean()), IMAGE, "float32")
    x = np.random.default_rng(0).normal(size=(3, *IMAGE)).astype(np.float32)
    np.testing.assert_allclose(run_rows(make_session(exported), x), x.mean(axis=2).reshape(3, 8), atol=1e-6)


def test_to_onnx_takes_integers_when_the_rows_are_tokens():
    module = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(24, 2)).eval()
    exported = to_onnx(network_of(module), (6,), "int64")
    x = np.random.default_rng(0).integers(0, 50, (5, 6))
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run_rows(make_session(exported), x), expected, atol=1e-6)


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x[:, 0] @ x[:, 0].mT)


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 64)


class FirstAxisIsNotTheBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).T


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Eigenvalues(), r"the operator aten\._linalg_eigh has no ONNX form"),
        (DataDependent(), "GuardOnDataDependentSymNode.*must not depend on the data"),
        (FixedBatch(), r"its input has the shape \[2, 1, 8, 8\], whose first axis is not the batch"),
        (FirstAxisIsNotTheBatch(), r"its output has the shape \[64, 'batch'\], whose first axis is not the batch"),
        (TwoInputs(), r"missing a required argument: 'y'.*forward\(\) must take one tensor"),
    ],
)
def test_to_onnx_says_what_is_in_the_way_when_a_network_cannot_be_exported(module, message, capfd):
    with pytest.raises(ModelError, match=f"(?s)'their.package:network' cannot be exported: .*{message}"):
        to_onnx(network_of(module), IMAGE, "float32")
    assert capfd.readouterr() == ("", "")
