import numpy as np
import pytest
import torch
from torch import fx

from tasks.contracts.data import SpecialTokens
from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network, completed
from tasks.models.onnx_export import to_onnx
from tasks.models.text_encoder import text_encoder

TINY = {"width": 8, "depth": 2, "heads": 2}


def ids(num_rows: int = 6, length: int = 10, vocab_size: int = 30) -> torch.Tensor:
    rows = torch.randint(1, vocab_size, (num_rows, length), generator=torch.Generator().manual_seed(0))
    for row in range(num_rows):
        rows[row, length - row :] = 0
    return rows


def tiny(seed: int = 0, **changes: float) -> torch.nn.Module:
    torch.manual_seed(seed)
    return text_encoder([10], 3, vocab_size=30, **(TINY | changes)).eval()


def test_text_encoder_does_not_look_at_padding() -> None:
    module, rows = tiny(), ids()
    with torch.no_grad():
        expected = module(rows)
        module.token.weight[0] = 100.0  # the padding's own embedding

        assert torch.equal(module(rows), expected)


def test_text_encoder_averages_real_tokens_when_it_has_no_block() -> None:
    module = tiny(depth=0)
    row = torch.tensor([[4, 7, 0, 0, 0, 0, 0, 0, 0, 0]])
    by_hand = (module.token.weight[4] + module.token.weight[7] + module.position[0, :2].sum(0)) / 2

    assert torch.allclose(module(row), module.head(module.norm(by_hand))[None], atol=1e-6)


def test_text_encoder_tells_the_order_of_tokens() -> None:
    module = tiny()
    there, back = torch.tensor([[3, 4, 5] + [0] * 7]), torch.tensor([[5, 4, 3] + [0] * 7])

    assert not torch.allclose(module(there), module(back), atol=1e-4)


def test_text_encoder_gives_a_finite_answer_for_a_row_of_padding() -> None:
    assert torch.isfinite(tiny()(torch.zeros(2, 10, dtype=torch.int64))).all()


def test_text_encoder_learns_from_every_parameter_but_the_paddings_embedding() -> None:
    module = tiny().train()
    module(torch.arange(30).reshape(3, 10)).square().sum().backward()

    assert all(
        p.grad is not None and bool(p.grad.any()) for name, p in module.named_parameters() if "key.bias" not in name
    )
    assert not module.token.weight.grad[0].any()


def test_text_encoder_is_traced_by_fx_to_the_same_function() -> None:
    module = tiny()

    assert torch.equal(fx.symbolic_trace(module)(ids()), module(ids()))


def test_text_encoder_is_rebuilt_and_exported_with_its_vocabulary_from_the_data() -> None:
    given = Architecture(factory="tasks.models.text_encoder:text_encoder", kwargs=TINY)
    architecture = completed(given, (10,), 3, vocab_size=30, special_tokens=SpecialTokens(pad=4))
    network = Network.from_bytes(Network.create(architecture, seed=1).to_bytes())

    exported = to_onnx(network, (10,), "int64")

    assert architecture.kwargs == TINY | {"input_shape": [10], "num_outputs": 3, "vocab_size": 30, "pad": 4}
    rows = ids(num_rows=7)
    outputs = run_rows(make_session(exported), rows.numpy())
    assert np.allclose(outputs, network.module(rows).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("input_shape", "kwargs", "message"),
    [
        ([1, 8, 8], {}, r"\[1, 8, 8\]; use it with a text data set"),
        ([10], {"pad": 30}, "pad=30"),
        ([10], {"depth": -1}, "depth=-1"),
        ([10], {"dropout": 1.0}, "dropout=1"),
        ([10], {"width": 9}, "multiple of num_heads"),
    ],
)
def test_text_encoder_names_the_argument_when_it_is_out_of_bounds(input_shape, kwargs, message) -> None:
    with pytest.raises(ModelError, match=message):
        text_encoder(input_shape, 3, vocab_size=30, **(TINY | kwargs))
