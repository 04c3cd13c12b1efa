import numpy as np
import pytest
import torch
from torch import nn

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.models.codebook import Codebook
from tasks.models.masking import Masked, set_masks, with_masks
from tasks.models.sharing import SharedWeight, codebooks_of, insert_codebooks, with_codebooks


def linear_book(**members: object) -> Codebook:
    """Return a codebook for a weight [2, 3]: one group of channels for each row."""
    defaults = {
        "values_GK": np.array([[1.0, 2.0], [10.0, 20.0]], np.float32),
        "indices": np.array([[0, 1, 1], [1, 0, 0]], np.uint8),
        "groups_O": np.array([0, 1]),
    }
    return Codebook(**(defaults | members))


def shared_linear(book: Codebook) -> nn.Linear:
    network = Network(Architecture(factory="test:network"), nn.Sequential(nn.Linear(3, 2)))
    return with_codebooks(network, {"0": book}).module[0]


def test_shared_weight_decodes_each_group_with_its_own_codebook():
    layer = shared_linear(linear_book())
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[1.0, 2.0, 2.0], [20.0, 10.0, 10.0]]))
    assert [name for name, _ in layer.named_parameters()] == ["bias", "parametrizations.weight.original"]


def test_gradient_of_a_centroid_is_the_sum_over_its_weights():
    layer = shared_linear(linear_book())
    x = torch.tensor([[1.0, 2.0, 4.0]])
    (layer(x) * torch.tensor([[1.0, 3.0]])).sum().backward()
    # d/dw of output 0 is x, of output 1 is 3 x; entry 1 of group 0 has the inputs 1 and 2, and so on
    expected = torch.tensor([[1.0, 2.0 + 4.0], [3 * (2.0 + 4.0), 3 * 1.0]])
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, expected)


def test_gradient_sums_those_of_a_dense_layer_when_the_weight_is_a_kernel():
    torch.manual_seed(0)
    conv, dense = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)
    book = Codebook(
        values_GK=np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
        indices=np.random.default_rng(1).integers(0, 5, (6, 4, 3, 3)).astype(np.uint8),
        groups_O=np.array([0, 0, 1, 1, 2, 2]),
    )
    network = with_codebooks(Network(Architecture(factory="test:n"), nn.Sequential(conv)), {"0": book})
    dense.load_state_dict({"weight": torch.from_numpy(book.decoded()), "bias": conv.bias.detach()})
    x = torch.randn(2, 4, 8, 8)
    for module in (network.module, dense):
        module(x).square().sum().backward()
    expected = np.zeros((3, 5))
    np.add.at(expected, (book.groups_O[:, None, None, None], book.indices), dense.weight.grad.numpy())
    np.testing.assert_allclose(conv.parametrizations.weight.original.grad, expected, rtol=1e-4)


def test_pinned_entries_have_no_gradient_and_stay_where_they_are():
    book = linear_book(pinned_GK=np.array([[True, False], [False, False]]))
    layer = shared_linear(book)
    layer(torch.ones(1, 3)).sum().backward()
    gradient = layer.parametrizations.weight.original.grad
    assert gradient[0, 0] == 0
    assert (gradient.flatten()[1:] != 0).all()
    with torch.no_grad():
        layer.parametrizations.weight.original.fill_(5.0)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[1.0, 5.0, 5.0], [5.0, 5.0, 5.0]]))


def test_scaled_entries_lie_on_127ths_and_learn_as_if_they_did_not():
    book = linear_book(
        values_GK=np.array([[0.3, 1.0]], np.float32),
        groups_O=np.array([0, 0]),
        scales_O=np.array([2.0, 4.0], np.float32),
    )
    layer = shared_linear(book)
    step = round(0.3 * 127) / 127
    expected = torch.tensor([[2 * step, 2.0, 2.0], [4.0, 4 * step, 4 * step]])
    torch.testing.assert_close(layer.weight.detach(), expected)
    layer(torch.tensor([[1.0, 2.0, 4.0]])).sum().backward()
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, torch.tensor([[2 + 4 * 6.0, 2 * 6 + 4.0]]))
    scales = layer.parametrizations.weight[0].scales
    torch.testing.assert_close(scales.grad, torch.tensor([step + 6.0, 1.0 + step * 6.0]))


def test_assigned_weight_becomes_the_mean_of_each_entry():
    layer = shared_linear(linear_book())
    layer.weight = torch.tensor([[1.0, 2.0, 4.0], [8.0, 1.0, 3.0]])
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[1.0, 3.0, 3.0], [8.0, 2.0, 2.0]]))


def test_network_reloads_with_its_codebooks_and_learns_on():
    architecture = Architecture(factory="tasks.models.mlp:mlp", kwargs={"input_shape": [3], "num_outputs": 2})
    network = Network.create(architecture, seed=0)
    path, layer = next((p, m) for p, m in network.module.named_modules() if isinstance(m, nn.Linear))
    indices = np.random.default_rng(0).integers(0, 4, layer.weight.shape).astype(np.uint8)
    values = np.random.default_rng(1).normal(size=(1, 4)).astype(np.float32)
    scales = np.linspace(0.5, 2.0, len(indices), dtype=np.float32)
    book = Codebook(values / np.abs(values).max(), indices, np.zeros(len(indices), np.int64), scales)
    shared = with_codebooks(network, {path: book})
    again = Network.from_bytes(shared.to_bytes())
    assert again.to_bytes() == shared.to_bytes()
    x = torch.randn(5, 3)
    torch.testing.assert_close(again.module(x), shared.module.eval()(x), rtol=0, atol=0)
    found = codebooks_of(again.module)[path]
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.decoded(), again.module.get_submodule(path).weight.detach(), rtol=1e-6)
    again.module(x).sum().backward()
    assert again.module.get_submodule(path).parametrizations.weight.original.grad.abs().sum() > 0


def test_mask_stays_on_top_of_the_decoded_weight_and_survives_a_second_sharing():
    module = nn.Sequential(nn.Linear(3, 2))
    network = with_masks(Network(Architecture(factory="test:network"), module), ["0"])
    set_masks(module, {"0": torch.tensor([[True, False, True], [True, True, False]])})
    for _ in range(2):
        network = with_codebooks(network, {"0": linear_book()})
    chain = module[0].parametrizations.weight
    assert [type(each) for each in chain] == [SharedWeight, Masked]
    torch.testing.assert_close(module[0].weight.detach(), torch.tensor([[1.0, 0.0, 2.0], [20.0, 10.0, 0.0]]))
    assert chain.original.shape == (2, 2)
    assert chain.original.requires_grad


def test_codebooks_of_is_empty_when_nothing_is_shared():
    assert codebooks_of(nn.Sequential(nn.Linear(3, 2))) == {}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"1": [1, 4]}, "no layer '1'"),
        ({"0.bias": [1, 4]}, "no layer '0.bias'"),
        ({"2": [1, 4]}, "has no weight"),
        ({"0": [3, 4]}, "from 1 to 2"),
        ({"0": [1, 257]}, "from 2 to 256"),
        ({"0": [1]}, "not \\[1\\]"),
    ],
)
def test_insert_codebooks_names_what_does_not_fit(layers, message):
    module = nn.ModuleDict({"0": nn.Linear(3, 2), "2": nn.ReLU()})
    with pytest.raises(ModelError, match=message):
        insert_codebooks(module, layers, [])
