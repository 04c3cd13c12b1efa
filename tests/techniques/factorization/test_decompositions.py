import numpy as np
import pytest
import torch
from torch import nn

from tasks.techniques.factorization.decompositions import (
    ConvolutionForm,
    LinearSvd,
    SpatialSvd,
    Tucker2,
    decomposition_of,
    empty_layers,
)

LAYERS = {
    "linear": nn.Linear(12, 9),
    "linear without bias": nn.Linear(5, 16, bias=False),
    "3x3": nn.Conv2d(6, 10, 3, padding=1),
    "strided 3x3 without bias": nn.Conv2d(8, 4, 3, stride=2, padding=1, bias=False),
    "dilated 5x3": nn.Conv2d(3, 7, (5, 3), stride=(1, 2), padding=(4, 1), dilation=(2, 1)),
    "padded, strided 1x1": nn.Conv2d(6, 8, 1, stride=2, padding=1),
}


def rows_for(layer: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (3, layer.in_features) if isinstance(layer, nn.Linear) else (3, layer.in_channels, 9, 10)
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("form", ["tucker2", "spatial"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_the_same_at_full_rank(name: str, form: ConvolutionForm) -> None:
    layer = LAYERS[name]
    decomposition = decomposition_of(layer, form)
    assert decomposition is not None
    split = decomposition.layers(decomposition.max_ranks)
    rows = rows_for(layer)
    torch.testing.assert_close(split(rows), layer(rows), rtol=1e-4, atol=1e-5)
    assert decomposition.residuals().flatten()[-1].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("form", ["tucker2", "spatial"])
@pytest.mark.parametrize("name", LAYERS)
def test_residual_is_the_squared_error_of_the_weight_that_the_layers_multiply_out_to(
    name: str, form: ConvolutionForm
) -> None:
    layer = LAYERS[name]
    decomposition = decomposition_of(layer, form)
    assert decomposition is not None
    ranks = tuple(max(1, most // 2) for most in decomposition.max_ranks)
    weights = {part: one.weight.detach().double().numpy() for part, one in decomposition.layers(ranks).named_children()}
    if isinstance(decomposition, Tucker2):
        product = np.einsum(
            "ro,sr...,ps->po...", weights["first"][..., 0, 0], weights["core"], weights["last"][..., 0, 0]
        )
    elif isinstance(decomposition, SpatialSvd):
        product = np.einsum("rih,orw->oihw", weights["first"][..., 0], weights["last"][:, :, 0])
    else:
        flat = weights["last"].reshape(len(weights["last"]), -1) @ weights["first"].reshape(len(weights["first"]), -1)
        product = flat.reshape(layer.weight.shape)
    exact = layer.weight.detach().double().numpy()
    lost = ((exact - product) ** 2).sum() / (exact**2).sum()
    residual = decomposition.residuals()[tuple(rank - 1 for rank in ranks)].item()
    assert residual == pytest.approx(lost, abs=1e-5)
    assert 0 < residual < 1


@pytest.mark.parametrize("form", ["tucker2", "spatial"])
@pytest.mark.parametrize("name", LAYERS)
def test_num_weights_counts_the_weights_of_the_layers(name: str, form: ConvolutionForm) -> None:
    decomposition = decomposition_of(LAYERS[name], form)
    assert decomposition is not None
    ranks = tuple(max(1, most // 3) for most in decomposition.max_ranks)
    made = sum(layer.weight.numel() for layer in decomposition.layers(ranks))
    assert decomposition.num_weights(ranks) == made


@pytest.mark.parametrize("form", ["tucker2", "spatial"])
@pytest.mark.parametrize("name", LAYERS)
def test_empty_layers_take_the_weights_of_the_layers(name: str, form: ConvolutionForm) -> None:
    layer = LAYERS[name]
    decomposition = decomposition_of(layer, form)
    assert decomposition is not None
    ranks = tuple(max(1, most // 2) for most in decomposition.max_ranks)
    made, empty = decomposition.layers(ranks), empty_layers(layer, form, ranks)
    empty.load_state_dict(made.state_dict(), strict=True)
    torch.testing.assert_close(empty(rows_for(layer)), made(rows_for(layer)))


def test_linear_svd_of_a_matrix_worked_by_hand() -> None:
    # diag(3, 4) has the singular values 4 and 3: at rank 1 it keeps 16 of 25 and becomes diag(0, 4)
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    decomposition = LinearSvd(layer)
    assert decomposition.residuals().tolist() == pytest.approx([9 / 25, 0.0], abs=1e-12)
    split = decomposition.layers((1,))
    torch.testing.assert_close(split(torch.eye(2)), torch.tensor([[0.0, 0.0], [0.0, 4.0]]))


def test_spatial_svd_needs_one_rank_for_a_separable_kernel() -> None:
    layer = nn.Conv2d(1, 1, 3, bias=False)
    layer.weight.data = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, -1.0]))[None, None]  # Sobel
    assert SpatialSvd(layer).residuals()[0].item() == pytest.approx(0, abs=1e-12)


def test_tucker2_recovers_the_ranks_that_a_kernel_was_made_of() -> None:
    generator = torch.Generator().manual_seed(0)
    core, outputs, inputs = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 2, 3, 3), (12, 3), (10, 2))
    )
    layer = nn.Conv2d(10, 12, 3, bias=False)
    layer.weight.data = torch.einsum("rshw,or,is->oihw", core, outputs, inputs).float()
    residuals = Tucker2(layer).residuals()
    assert residuals[1, 2].item() == pytest.approx(0, abs=1e-10)
    assert residuals[0, 2].item() > 1e-3
    assert residuals[1, 1].item() > 1e-3


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(4, 4, 3, padding="same"), nn.ReLU()])
def test_decomposition_of_leaves_out_what_has_none(layer: nn.Module) -> None:
    assert decomposition_of(layer, "tucker2") is None
