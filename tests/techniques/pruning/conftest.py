"""Small networks of every structure that pruning has to follow, and ways to check what it did."""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.models.mlp import mlp
from tasks.models.mobilenet import mobilenet
from tasks.models.resnet import resnet
from tasks.models.vit import vit
from tasks.techniques.pruning.coupling import Channels, Group, GroupKey


def conv_norm_relu(num_inputs: int, num_outputs: int, size: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_inputs, num_outputs, size, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(num_outputs),
        nn.ReLU(),
    )


def plain() -> nn.Module:
    """Biased convolutions and no batch norm but one; widths 8 and 16."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def flattening() -> nn.Module:
    """A convolution whose 4x4 maps are flattened: each channel is 16 features."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10), nn.ReLU(), nn.Linear(10, 3)
    )


def depthwise() -> nn.Module:
    """MobileNet-like, the last depthwise convolution with two outputs for each input."""
    return nn.Sequential(
        conv_norm_relu(1, 8),
        conv_norm_relu(8, 8, groups=8),
        conv_norm_relu(8, 12, size=1),
        conv_norm_relu(12, 24, groups=12),
        nn.Conv2d(24, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 3),
    )


def grouped() -> nn.Module:
    """ResNeXt-like: 4 groups from 12 to 16 channels, then 4 groups of 4 inputs and 1 output."""
    return nn.Sequential(
        conv_norm_relu(1, 12),
        conv_norm_relu(12, 16, groups=4),
        nn.Conv2d(16, 4, 1, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


class Dense(nn.Module):
    """DenseNet-like: every layer reads the concatenation of all before it, normalised on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(10), nn.Conv2d(10, 5, 3, padding=1)
        self.norm3, self.head = nn.BatchNorm2d(15), nn.Linear(15, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(torch.relu(self.norm1(x)))], dim=1)
        x = torch.cat([x, self.conv2(torch.relu(self.norm2(x)))], 1)
        return self.head(torch.relu(self.norm3(x)).mean((2, 3)))


class Excited(nn.Module):
    """Squeeze-and-excitation as people write it: sizes are read from the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_norm_relu(1, 8)
        self.squeeze = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        rows, channels, _, _ = x.size()
        scale = self.squeeze(x.mean((2, 3)).view(rows, channels)).view(rows, channels, 1, 1)
        x = x * scale.expand_as(x)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).view(x.size(0), -1))


class Mixed(nn.Module):
    """A concatenation added to one layer's output, a shared layer, and a broadcast map of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.both = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 6, 1), nn.Conv2d(1, 10, 1)
        self.shared = nn.Conv2d(10, 10, 3, padding=1)
        self.attention = nn.Conv2d(10, 1, 1)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x), self.right(x)], dim=1) + self.both(x)
        both = self.shared(self.shared(both).relu())
        return self.head((both * self.attention(both)).mean([-1, -2]))


class GroupNormed(nn.Module):
    """Group norms over 4 groups of 3 and over single channels, an instance norm, and norms over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(4, 12)
        self.second, self.norm2 = nn.Conv2d(12, 8, 1), nn.GroupNorm(8, 8)
        self.third, self.norm3 = nn.Conv2d(8, 6, 1), nn.InstanceNorm2d(6, affine=True)
        self.positions, self.head = nn.LayerNorm([8, 8]), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.first(x)))
        x = torch.relu(self.norm2(self.second(x)))
        return self.head(torch.relu(self.positions(self.norm3(self.third(x)))).mean((2, 3)))


class Gated(nn.Module):
    """Rows of an image as tokens, gated linear units cut by chunk, and a part of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(8, 12), nn.Linear(6, 10)
        self.flat = nn.Linear(10 * 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.expand(x[:, 0]).chunk(2, dim=-1)  # [B, 8, 12]: each half has 6
        tokens = self.contract(value * torch.sigmoid(gate)).relu()
        return self.flat(tokens[:, 1:4].flatten(1))


class Padded(nn.Module):
    """A shortcut that fills up missing channels with zeros (He et al. 2016, option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head((shortcut + self.block(x)).relu().mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "residual": lambda: resnet((1, 8, 8), 3, width=6, blocks=[2]),
    "projected": lambda: resnet((1, 8, 8), 3, width=4, blocks=[1, 2, 1]),
    "dense": Dense,
    "depthwise": depthwise,
    "grouped": grouped,
    "flattening": flattening,
    "mlp": lambda: mlp((1, 8, 8), 3, hidden=(12, 8)),
    "excited": Excited,
    "mixed": Mixed,
    "group_normed": GroupNormed,
    "gated": Gated,
    "padded": Padded,
    "mobilenet": lambda: mobilenet((1, 8, 8), 3, width=4, blocks=[1, 2], expansion=3),
    "vit": lambda: vit((1, 8, 8), 3, patch=4, width=12, depth=2, heads=3),
}


@pytest.fixture(scope="session")
def make_network() -> Callable[[str], nn.Module]:
    """Return a function that builds a network in float64 with batch-norm state as after a training."""

    def make(name: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            network = NETWORKS[name]().double().eval()
            for layer in network.modules():
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    layer.running_mean.normal_()
                    layer.running_var.uniform_(0.5, 2.0)
                    if layer.affine:
                        nn.init.uniform_(layer.weight, 0.5, 1.5)
                        nn.init.normal_(layer.bias)
        return network

    return make


def without_units(network: nn.Module, groups: tuple[Group, ...], kept: Mapping[GroupKey, Channels]) -> nn.Module:
    """Return a copy of full width whose removed units are silenced: weights, biases, scales and shifts are zero."""
    masked = copy.deepcopy(network)
    for group in groups:
        if group.reason is not None or group.key not in kept:
            continue
        removed = np.setdiff1d(np.arange(group.num_units), kept[group.key])
        for member in group.members:
            layer = masked.get_submodule(member.path)
            if member.axis != "in":
                for parameter in layer.parameters(recurse=False):
                    parameter.data[member.channels[removed].ravel()] = 0
    return masked


@pytest.fixture(scope="session")
def mask_units() -> Callable[[nn.Module, tuple[Group, ...], Mapping[GroupKey, Channels]], nn.Module]:
    return without_units
