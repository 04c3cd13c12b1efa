import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tasks.contracts.errors import ModelError, TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.models.mobilenet import mobilenet
from tasks.models.resnet import resnet
from tasks.models.text_encoder import text_encoder
from tasks.models.vit import vit
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.blocks import block_harms, block_influences, drop_layers, removable_blocks
from tasks.techniques.pruning.prune_layers import PruneLayers
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext

MakeContext = Callable[..., StageContext]
X = torch.zeros(2, 1, 8, 8)
ENTROPY = label_loss("classification")
SHORT = Schedule(epochs=2, batch_size=16, learning_rate=1e-3, checkpoint_every=1)
DEEP = Architecture(
    factory="tasks.models.resnet:resnet",
    kwargs={"input_shape": [1, 8, 8], "num_outputs": 3, "width": 4, "blocks": [3, 2]},
)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (resnet((1, 8, 8), 3, width=4, blocks=[2, 2]), ("stages.0.0", "stages.0.1", "stages.1.1")),
        (mobilenet((1, 8, 8), 3, width=4, blocks=[1, 2]), ("stages.0.0", "stages.1.1")),
        (vit((1, 8, 8), 3, width=8, depth=2), ("blocks.0", "blocks.1")),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())), ("1",)),
    ],
)
def test_removable_blocks_are_those_that_keep_the_shape(network: nn.Module, expected: tuple[str, ...]) -> None:
    assert removable_blocks(network, X) == expected


def test_removable_blocks_of_a_text_encoder_are_found_by_token_ids() -> None:
    network = text_encoder([6], 3, vocab_size=11, width=8, depth=2)
    ids = torch.tensor([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    assert removable_blocks(network, ids) == ("blocks.0", "blocks.1")
    shorter = drop_layers(copy.deepcopy(network), ["blocks.0"])  # its blocks take a mask beside the tokens
    assert shorter(ids).shape == (2, 3)


def test_removable_blocks_heed_targets_and_ignore_and_say_what_there_is() -> None:
    network = resnet((1, 8, 8), 3, width=4, blocks=[2, 2])
    assert removable_blocks(network, X, targets=("stages.0.*",), ignore=("*.0",)) == ("stages.0.1",)
    with pytest.raises(TechniqueError, match=r"no block .* there are stages.0.0, stages.0.1, stages.1.1"):
        removable_blocks(network, X, ignore=("*",))
    with pytest.raises(TechniqueError, match="there are none"):
        removable_blocks(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), X)


def silence(network: nn.Module, path: str) -> nn.Module:
    """Let a block add nothing: the layers that end its branches give zeros."""
    masked = copy.deepcopy(network)
    ends = ("norm2",) if "stages" in path else ("attention.out", "contract")
    for name in ends:
        for parameter in masked.get_submodule(f"{path}.{name}").parameters():
            parameter.data.zero_()
        if isinstance(end := masked.get_submodule(f"{path}.{name}"), nn.BatchNorm2d):
            end.running_mean.zero_()
    return masked


@pytest.mark.parametrize("name", ["residual", "vit"])
def test_drop_layers_gives_the_outputs_of_the_masked_network(
    name: str, make_network: Callable[[str], nn.Module]
) -> None:
    network = make_network(name)
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for path in removable_blocks(network, x):
        pruned = drop_layers(copy.deepcopy(network), [path])
        torch.testing.assert_close(pruned(x), silence(network, path)(x), rtol=1e-10, atol=1e-12)
        assert not torch.allclose(pruned(x), network(x))


def test_drop_layers_names_the_module_that_is_not_there() -> None:
    for path in ("stages.9", "nowhere.0", ""):
        with pytest.raises(ModelError, match=f"no module '{path}'"):
            drop_layers(resnet((1, 8, 8), 3, width=4, blocks=[1]), [path])


def test_block_harms_are_the_losses_without_each_block_and_leave_the_network(images: Arrays) -> None:
    torch.manual_seed(0)
    network = resnet((1, 8, 8), 3, width=4, blocks=[2]).eval()
    x, labels = torch.from_numpy(images.x), torch.from_numpy(images.y)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    harms = block_harms(network, ["stages.0.0", "stages.0.1"], x, labels, ENTROPY)
    assert network.state_dict().keys() == before.keys()
    for path, harm in harms.items():
        outputs = drop_layers(copy.deepcopy(network), [path])(x)
        assert harm == pytest.approx(nn.functional.cross_entropy(outputs, labels).item(), rel=1e-5)


class Rotating(nn.Module):
    """Turns vectors of the plane by an angle."""

    def __init__(self, radians: float) -> None:
        super().__init__()
        self.turn = nn.Linear(2, 2, bias=False)
        angle = torch.tensor(radians)
        self.turn.weight.data = torch.stack(
            [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.turn(x)


def test_block_influences_are_one_minus_the_cosine_worked_by_hand() -> None:
    network = nn.Sequential(Rotating(0.0), Rotating(torch.pi / 3), Rotating(torch.pi))
    found = block_influences(network, ["0", "1", "2"], torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    assert list(found.values()) == pytest.approx([0, 0.5, 2], abs=1e-6)
    assert not any(layer._forward_hooks for layer in network)


@pytest.mark.parametrize("criterion", ["harm", "similarity"])
def test_apply_drops_the_least_missed_blocks_in_rounds(criterion: str, make_context: MakeContext) -> None:
    incoming = Network.create(DEEP, seed=0)
    for name in ("conv2", "norm2"):  # a block that adds nothing is missed by nobody
        for parameter in incoming.module.get_submodule(f"stages.0.1.{name}").parameters():
            parameter.data.zero_()
    records: list[EpochRecord] = []
    spec = PruneLayers(num_layers=3, rounds=2, criterion=criterion, fine_tune=SHORT)
    applied = spec.apply(incoming.to_bytes(), make_context(report=records.append))
    first = str(applied.details["layers_removed_in_round_1"])
    assert first.startswith("stages.0.1 (similarity" if criterion == "similarity" else "stages.")
    assert str(applied.details["layers_removed_in_round_2"]).count("stages.") == 2
    reloaded = Network.from_bytes(applied.model).module
    assert removable_blocks(reloaded, X) != removable_blocks(incoming.module, X)
    assert len(records) == spec.planned_epochs == 4
    # a block of the first stage has two convolutions of 4x4x9 on 64 positions
    block = 64 * 2 * 4 * 4 * 9
    saved = applied.details["multiply_adds_before"] - applied.details["multiply_adds_after"]
    assert saved in (3 * block, 2 * block + 16 * 2 * 8 * 8 * 9)


def test_apply_refuses_more_blocks_than_can_go_before_it_trains(make_context: MakeContext) -> None:
    with pytest.raises(TechniqueError, match=r"num_layers=5, but only 4 can go: stages.0.0"):
        PruneLayers(num_layers=5).apply(Network.create(DEEP, seed=0).to_bytes(), make_context())
    with pytest.raises(ValueError, match="rounds=2 leaves rounds without a block"):
        PruneLayers(num_layers=1, rounds=2)
