"""What tests of weight sharing have in common: a residual network that has learned the striped images."""

from collections.abc import Callable

import numpy as np
import pytest
from torch import nn
from torch.nn.utils import parametrize

from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit


@pytest.fixture(scope="session")
def load_split(draw_images: Callable[[int, int], Arrays]) -> Callable[[str], Arrays]:
    sizes = {"train": 96, "calibration": 120, "validation": 240}
    return lambda name: draw_images(sizes[name], len(name))


@pytest.fixture(scope="session")
def trained(load_split: Callable[[str], Arrays], make_context: Callable[..., StageContext]) -> Network:
    kwargs = {"input_shape": [1, 8, 8], "num_outputs": 3, "width": 16, "blocks": [1, 1]}
    network = Network.create(Architecture(factory="tasks.models.resnet:resnet", kwargs=kwargs), seed=0)
    schedule = Schedule(epochs=6, batch_size=16)
    fit(network.module, load_split("train"), label_loss("classification"), schedule, make_context())
    return network


@pytest.fixture
def context(
    load_split: Callable[[str], Arrays], make_context: Callable[..., StageContext], trained: Network
) -> StageContext:
    return make_context(load_split=load_split, load_baseline=trained.to_bytes)


@pytest.fixture(scope="session")
def weights_of() -> Callable[[nn.Module], dict[str, np.ndarray]]:
    """Return a function that gives the weights of all layers whose weight is decoded from a codebook."""

    def weights(module: nn.Module) -> dict[str, np.ndarray]:
        return {
            path: layer.weight.detach().numpy()
            for path, layer in module.named_modules()
            if parametrize.is_parametrized(layer, "weight")
        }

    return weights
