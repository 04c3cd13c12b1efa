import pytest
import torch
from torch import fx, nn

from tasks.contracts.errors import ModelError
from tasks.models.mlp import mlp


def test_mlp_standardises_raw_features_with_the_statistics_of_all_batches() -> None:
    module = mlp((2,), num_outputs=1, hidden=[]).train()
    rows = torch.tensor([5.0, 1e6]) + torch.tensor([2.0, 1e4]) * torch.randn(
        4096, 2, generator=torch.Generator().manual_seed(0)
    )
    for batch in rows.split(64):
        module(batch)
    norm = module.eval().get_submodule("1")
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, rows.mean(dim=0))  # the mean of equal batches' means is the mean
    standardised = norm(rows)
    torch.testing.assert_close(standardised.std(dim=0), torch.ones(2), atol=0.02, rtol=0)


def test_mlp_flattens_rows_of_any_shape() -> None:
    assert mlp((2, 3), num_outputs=4, hidden=[5, 6], dropout=0.2).eval()(torch.rand(3, 2, 3)).shape == (3, 4)


def test_mlp_gives_outputs_in_the_unit_of_the_target_when_scale_and_offset_are_set() -> None:
    torch.manual_seed(0)
    plain = mlp((3,), 1, hidden=[4]).eval()
    torch.manual_seed(0)
    scaled = mlp((3,), 1, hidden=[4], output_scale=20.0, output_offset=300.0).eval()
    rows = torch.rand(5, 3)
    torch.testing.assert_close(scaled(rows), plain(rows) * 20 + 300)


def test_mlp_is_traced_by_fx_to_the_same_function() -> None:
    module = mlp((3,), 2, dropout=0.1, output_scale=2.0).eval()
    rows = torch.rand(4, 3)
    assert torch.equal(fx.symbolic_trace(module)(rows), module(rows))


def test_mlp_names_the_argument_when_it_is_out_of_bounds() -> None:
    with pytest.raises(ModelError, match=r"hidden=\[8, 0\]"):
        mlp((3,), 2, hidden=[8, 0])
