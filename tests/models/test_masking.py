import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network
from tasks.models.masking import Masked, clear_hidden_weights, mask_weights, masks_of, set_masks, with_masks
from tasks.models.onnx_export import to_onnx
from tasks.models.parametrizations import without_parametrizations

RECIPE = Architecture(
    factory="tasks.models.resnet:resnet",
    kwargs={"input_shape": [1, 8, 8], "num_outputs": 3, "width": 4, "blocks": [1, 1]},
)
LAYERS = ["stages.0.0.conv1", "stages.1.0.conv2", "head"]


def every_third(weight: Tensor) -> Tensor:
    return (torch.arange(weight.numel()) % 3 != 0).view(weight.shape)


@pytest.fixture
def network() -> Network:
    """Return a network a third of whose weights in three layers is masked."""
    made = with_masks(Network.create(RECIPE, seed=0), LAYERS)
    set_masks(made.module, {path: every_third(mask) for path, mask in masks_of(made.module).items()})
    made.module.eval()
    return made


def test_masked_gives_positive_zeros_and_no_gradient_under_the_mask() -> None:
    layer = mask_weights(nn.Sequential(nn.Linear(2, 1, bias=False)), layers=["0"]).get_submodule("0")
    assert isinstance(layer, nn.Linear)
    layer.weight = torch.tensor([[-3.0, 2.0]])
    masks_of(layer)[""].copy_(torch.tensor([[False, True]]))
    assert layer.weight.tolist() == [[0.0, 2.0]]
    assert not torch.signbit(layer.weight[0, 0])
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.parametrizations.weight.original.grad.tolist() == [[0.0, 1.0]]


def test_masked_network_answers_as_the_dense_one_with_zeroed_weights(network: Network) -> None:
    images = torch.rand(5, 1, 8, 8)
    dense = Network.create(RECIPE, seed=0).module.eval()
    with torch.no_grad():
        for path, mask in masks_of(network.module).items():
            dense.get_parameter(f"{path}.weight").mul_(mask)
    assert torch.equal(network.module(images), dense(images))
    assert torch.equal(without_parametrizations(network.module)(images), dense(images))


def test_masks_travel_with_the_network_and_stay_in_training(network: Network) -> None:
    restored = Network.from_bytes(network.to_bytes())
    masks = masks_of(restored.module)
    assert list(masks) == LAYERS
    optimizer = torch.optim.AdamW(restored.module.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        restored.module(torch.rand(4, 1, 8, 8)).square().sum().backward()
        optimizer.step()
    for path, mask in masks_of(network.module).items():
        assert torch.equal(masks[path], mask)
        assert torch.equal(restored.module.get_submodule(path).weight == 0, ~mask)
    assert restored.to_bytes() != network.to_bytes()


def test_masked_network_exports_zeros(network: Network) -> None:
    exported = to_onnx(network, (1, 8, 8), "float32")
    graph = onnx.load_from_string(exported).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {node.name: weights[node.input[1]] for node in graph.node if node.op_type in ("Conv", "Gemm")}
    for path, mask in masks_of(network.module).items():
        np.testing.assert_array_equal(found[path] == 0, ~mask.numpy())
    x = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    expected = network.module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(run_rows(make_session(exported), x), expected, atol=1e-5)


def test_with_masks_leaves_masks_that_are_there_and_writes_down_the_new_ones_only(network: Network) -> None:
    before = {path: mask.clone() for path, mask in masks_of(network.module).items()}
    assert with_masks(network, LAYERS) is network
    more = with_masks(network, ["stem.conv", *LAYERS])
    assert [operation.arguments for operation in more.architecture.surgeries] == [
        {"layers": LAYERS}, {"layers": ["stem.conv"]},
    ]  # fmt: skip
    after = masks_of(Network.from_bytes(more.to_bytes()).module)
    assert after.pop("stem.conv").all()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[path], mask) for path, mask in before.items())


def test_clear_hidden_weights_zeroes_what_the_file_would_carry_and_changes_no_answer(network: Network) -> None:
    images = torch.rand(2, 1, 8, 8)
    expected = network.module(images)
    clear_hidden_weights(network.module)
    layer = network.module.get_submodule("head")
    assert torch.equal(layer.parametrizations.weight.original == 0, ~masks_of(network.module)["head"])
    assert torch.equal(network.module(images), expected)


class Doubled(nn.Module):
    def forward(self, original: Tensor) -> Tensor:
        return 2 * original


def test_mask_lies_over_what_computes_the_weight_already() -> None:
    layer = nn.Linear(2, 1)
    parametrize.register_parametrization(layer, "weight", Doubled())
    given = layer.weight.detach().clone()
    mask_weights(layer, layers=[""])
    masks_of(layer)[""][0, 0] = False
    assert layer.weight.tolist() == [[0.0, given[0, 1].item()]]
    clear_hidden_weights(layer)  # knows nothing of what Doubled stores
    assert layer.weight.tolist() == [[0.0, given[0, 1].item()]]


@pytest.mark.parametrize(
    ("layers", "message"),
    [(["nowhere"], "no layer 'nowhere'"), (["pool"], "'pool', a AdaptiveAvgPool2d, has no weight"),
     (["head"], "'head' has a mask already")],
)  # fmt: skip
def test_mask_weights_names_the_layer_when_it_cannot_be_masked(
    network: Network, layers: list[str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        mask_weights(network.module, layers=layers)


def test_set_masks_names_the_layer_when_the_mask_does_not_fit(network: Network) -> None:
    with pytest.raises(ModelError, match=r"'head' has no mask of shape \[1\]"):
        set_masks(network.module, {"head": torch.ones(1, dtype=torch.bool)})
    assert isinstance(network.module.get_submodule("head").parametrizations.weight[0], Masked)
