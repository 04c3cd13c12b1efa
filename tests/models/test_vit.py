import numpy as np
import pytest
import torch
from torch import fx

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network
from tasks.models.onnx_export import to_onnx
from tasks.models.vit import vit

KWARGS = {"input_shape": [1, 8, 8], "num_outputs": 5, "patch": 2, "width": 8, "depth": 2, "heads": 2}


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.create(Architecture(factory="tasks.models.vit:vit", kwargs=KWARGS), seed=0)


@pytest.mark.parametrize(("input_shape", "patch"), [((1, 8, 8), 2), ((3, 12, 8), 4), ((1, 28, 28), 4)])
def test_vit_gives_one_output_row_per_image_when_patches_tile_the_images(
    input_shape: tuple[int, ...], patch: int
) -> None:
    module = vit(input_shape, num_outputs=7, patch=patch, width=8, depth=1, heads=2).eval()
    assert module(torch.rand(3, *input_shape)).shape == (3, 7)


def test_vit_has_the_parameters_counted_by_hand() -> None:
    patches, positions = 1 * 2 * 2 * 8 + 8, 16 * 8
    attention = 4 * (8 * 8 + 8)
    block = 2 * (8 + 8) + attention + (8 * 24 + 24) + (24 * 8 + 8)
    module = vit((1, 8, 8), 5, patch=2, width=8, depth=2, heads=2, mlp_ratio=3.0)
    assert sum(p.numel() for p in module.parameters()) == patches + positions + 2 * block + (8 + 8) + 8 * 5 + 5


def test_vit_tells_patches_apart_by_their_position(network: Network) -> None:
    module = network.module.eval()
    images = torch.zeros(2, 1, 8, 8)
    images[0, :, :2, :2] = images[1, :, 6:, 6:] = 3.0
    first, second = module(images)
    assert not torch.allclose(first, second, atol=1e-4)
    with torch.no_grad():
        position = module.get_parameter("position")
        saved = position.clone()
        position.zero_()
        first, second = module(images)
        position.copy_(saved)
    torch.testing.assert_close(first, second)  # without positions a patch is the same wherever it lies


def test_vit_is_rebuilt_from_its_bytes_with_the_same_outputs(network: Network) -> None:
    images = torch.rand(4, 1, 8, 8)
    restored = Network.from_bytes(network.to_bytes())
    assert torch.equal(restored.module(images), network.module.eval()(images))


def test_vit_answers_the_same_in_onnx_when_the_batch_has_any_size(network: Network) -> None:
    session = make_session(to_onnx(network, (1, 8, 8), "float32"))
    for num_rows in (1, 7):
        x = np.random.default_rng(num_rows).normal(size=(num_rows, 1, 8, 8)).astype(np.float32)
        with torch.no_grad():
            expected = network.module.eval()(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(run_rows(session, x), expected, atol=1e-5)


def test_vit_is_traced_by_fx_to_the_same_function() -> None:
    module = vit((1, 8, 8), 3, patch=4, width=8, depth=1, heads=2, dropout=0.1).eval()
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(fx.symbolic_trace(module)(images), module(images))


def test_vit_learns_from_every_parameter() -> None:
    torch.manual_seed(0)
    module = vit((1, 8, 8), num_outputs=3, patch=4, width=8, depth=1, heads=2)
    module(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize(
    ("input_shape", "kwargs", "message"),
    [
        ((64,), {}, r"\[64\].*use mlp"),
        ((1, 28, 28), {"patch": 5}, r"patch=5 does not tile images of 28x28; take one of \[1, 2, 4, 7, 14, 28\]"),
        ((1, 8, 8), {"width": 10}, "width=10, depth=4, heads=4"),
        ((1, 8, 8), {"depth": 0}, "depth=0"),
        ((1, 8, 8), {"mlp_ratio": 0.0}, r"mlp_ratio=0\.0"),
        ((1, 8, 8), {"dropout": 1.0}, r"dropout=1\.0"),
    ],
)
def test_vit_names_the_argument_when_it_is_out_of_bounds(input_shape, kwargs, message) -> None:
    with pytest.raises(ModelError, match=message):
        vit(input_shape, 10, **kwargs)
