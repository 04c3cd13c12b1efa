import math

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network
from tasks.models.attention import EncoderBlock, SelfAttention
from tasks.models.onnx_export import to_onnx


def attention_by_hand(layer: SelfAttention, x_TF: np.ndarray, keep_T: np.ndarray) -> np.ndarray:
    """Compute the module's answer for one row in numpy, head by head and token by token."""

    def linear(module: nn.Linear, rows: np.ndarray) -> np.ndarray:
        return rows @ module.weight.detach().double().numpy().T + module.bias.detach().double().numpy()

    queries, keys, values = (linear(part, x_TF) for part in (layer.query, layer.key, layer.value))
    joined = np.zeros_like(queries)
    for head in range(layer.num_heads):
        own = slice(head * layer.head_width, (head + 1) * layer.head_width)
        for token in range(len(x_TF)):
            scores = np.array([queries[token, own] @ key[own] / math.sqrt(layer.head_width) for key in keys])
            shares = np.where(keep_T, np.exp(scores - scores.max()), 0.0)
            joined[token, own] = shares / shares.sum() @ values[:, own]
    return linear(layer.out, joined)


@pytest.mark.parametrize("head_width", [None, 3])
def test_self_attention_equals_the_formula_when_heads_are_of_any_width(head_width: int | None) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, num_heads=2, head_width=head_width).double()
    x_BTF = torch.randn(3, 5, 8, dtype=torch.float64)
    keep_BT = torch.tensor([[True] * 5, [True, True, False, True, False], [False, False, False, False, True]])
    outputs = layer(x_BTF, keep_BT).detach().numpy()
    for row in range(3):
        expected = attention_by_hand(layer, x_BTF[row].numpy(), keep_BT[row].numpy())
        np.testing.assert_allclose(outputs[row], expected, atol=1e-12)


def test_self_attention_ignores_hidden_tokens_and_stays_finite_when_all_are_hidden() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, num_heads=4)
    x_BTF = torch.randn(2, 4, 8)
    keep_BT = torch.tensor([[True, True, False, False], [False] * 4])
    changed_BTF = x_BTF.clone()
    changed_BTF[0, 2:] += 100
    assert torch.equal(layer(x_BTF, keep_BT)[0, :2], layer(changed_BTF, keep_BT)[0, :2])
    assert bool(layer(x_BTF, keep_BT).isfinite().all())
    assert torch.equal(layer(x_BTF, torch.ones(2, 4, dtype=torch.bool)), layer(x_BTF))


def test_self_attention_loses_a_head_when_its_rows_and_columns_are_taken_out() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, num_heads=2)
    x_BTF = torch.randn(2, 3, 8)
    with torch.no_grad():
        layer.out.weight[:, :4] = 0  # head 0 no longer reaches the output
        smaller = SelfAttention(8, num_heads=1, head_width=4)
        for name in ("query", "key", "value"):
            given, taken = layer.get_submodule(name), smaller.get_submodule(name)
            assert isinstance(given, nn.Linear)
            assert isinstance(taken, nn.Linear)
            taken.weight.copy_(given.weight[4:])
            taken.bias.copy_(given.bias[4:])
        smaller.out.weight.copy_(layer.out.weight[:, 4:])
        smaller.out.bias.copy_(layer.out.bias)
    torch.testing.assert_close(smaller(x_BTF), layer(x_BTF))


def test_encoder_block_is_the_sum_of_its_branches() -> None:
    torch.manual_seed(0)
    block = EncoderBlock(8, num_heads=2, hidden=12).eval()
    x_BTF = torch.randn(2, 3, 8)
    attended = x_BTF + block.attention(nn.functional.layer_norm(x_BTF, (8,)))
    hidden = nn.functional.gelu(block.expand(nn.functional.layer_norm(attended, (8,))))
    torch.testing.assert_close(block(x_BTF), attended + block.contract(hidden))


def test_encoder_block_is_traced_by_fx_to_the_same_function() -> None:
    block = EncoderBlock(8, num_heads=2, hidden=12, dropout=0.1).eval()
    traced = fx.symbolic_trace(block, concrete_args={"keep_BT": None})
    x_BTF = torch.randn(2, 3, 8)
    assert torch.equal(traced(x_BTF, None), block(x_BTF))
    assert torch.equal(fx.symbolic_trace(nn.Sequential(block))(x_BTF), block(x_BTF))


class TokenClassifier(nn.Module):
    """One encoder block over token ids, 0 being padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.block = EncoderBlock(8, num_heads=2, hidden=12)

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.block(self.embedding(ids_BT), ids_BT != 0).mean(1)


@pytest.mark.parametrize("num_rows", [1, 5])
def test_encoder_block_answers_the_same_in_onnx_when_tokens_are_hidden(num_rows: int) -> None:
    torch.manual_seed(0)
    module = TokenClassifier().eval()
    exported = to_onnx(Network(Architecture(factory="their.package:network"), module), (6,), "int64")
    ids = np.random.default_rng(num_rows).integers(0, 20, (num_rows, 6))
    ids[0] = 0  # all padding
    with torch.no_grad():
        expected = module(torch.from_numpy(ids)).numpy()
    np.testing.assert_allclose(run_rows(make_session(exported), ids), expected, atol=1e-5)
    names = [node.name for node in onnx.load_from_string(exported).graph.node if node.op_type == "MatMul"]
    assert {"block.attention.query", "block.attention.matmul", "block.attention.matmul_1"} <= set(names)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"width": 8, "num_heads": 3}, "num_heads=3"),
        ({"width": 8, "num_heads": 0}, "num_heads=0"),
        ({"width": 8, "num_heads": 2, "head_width": 0}, "head_width=0"),
    ],
)
def test_self_attention_names_the_argument_when_it_is_out_of_bounds(kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SelfAttention(**kwargs)


def test_encoder_block_names_the_hidden_width_when_it_is_out_of_bounds() -> None:
    with pytest.raises(ModelError, match="hidden=0"):
        EncoderBlock(8, 2, hidden=0)
