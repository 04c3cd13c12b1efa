from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.onnx_graph import load_graph
from tasks.models.architecture import Network
from tasks.models.convnet import convnet
from tasks.models.onnx_export import to_onnx


@pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 11, 9), (1, 28, 28)])
def test_convnet_gives_one_output_row_per_image_when_the_images_have_any_size(input_shape: tuple[int, ...]) -> None:
    module = convnet(input_shape, num_outputs=7, widths=[4, 6], convolutions=[1, 2], strides=[2, 2]).eval()
    assert module(torch.rand(3, *input_shape)).shape == (3, 7)


def test_convnet_has_the_parameters_counted_by_hand() -> None:
    module = convnet((1, 8, 8), num_outputs=10, widths=[4, 6], convolutions=[1, 2], strides=[1, 2])
    norms = 2 * (4 + 6 + 6)
    assert sum(p.numel() for p in module.parameters()) == 9 * (1 * 4 + 4 * 6 + 6 * 6) + norms + 6 * 10 + 10


def test_convnet_is_traced_by_fx_to_the_same_function() -> None:
    module = convnet((1, 8, 8), num_outputs=3, dropout=0.1).eval()
    rows = torch.rand(4, 1, 8, 8)
    assert torch.equal(fx.symbolic_trace(module)(rows), module(rows))


def test_convnet_exports_to_nothing_but_convolutions_activations_and_the_head() -> None:
    kwargs = {"input_shape": [1, 8, 8], "num_outputs": 3, "widths": [4, 6], "convolutions": [1, 2], "strides": [1, 2]}
    network = Network.create(Architecture(factory="tasks.models.convnet:convnet", kwargs=kwargs), seed=0)
    operators = [node.op_type for node in load_graph(to_onnx(network, (1, 8, 8), "float32")).graph.node]
    assert operators == ["Conv", "Relu"] * 3 + ["GlobalAveragePool", "Reshape", "Gemm"]


def test_convnet_learns_from_every_parameter() -> None:
    module = convnet((1, 8, 8), num_outputs=3)
    module(torch.from_numpy(np.random.default_rng(0).random((4, 1, 8, 8), np.float32))).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize(
    ("input_shape", "kwargs", "message"),
    [
        ((64,), {}, r"\[64\].*use mlp"),
        ((1, 8, 8), {"widths": []}, r"widths=\[\].*one of each"),
        ((1, 8, 8), {"strides": [2, 2]}, r"strides=\[2, 2\].*one of each"),
        ((1, 8, 8), {"convolutions": [1, 0, 1]}, r"convolutions=\[1, 0, 1\]"),
        ((1, 8, 8), {"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_convnet_names_the_argument_when_it_is_out_of_bounds(
    input_shape: tuple[int, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        convnet(input_shape, num_outputs=3, **kwargs)
