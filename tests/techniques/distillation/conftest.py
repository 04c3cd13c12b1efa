"""What tests of distillation share: a teacher that has learned the striped images."""

from collections.abc import Callable

import pytest

from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit


@pytest.fixture(scope="session")
def teacher(images: Arrays, make_context: Callable[..., StageContext]) -> bytes:
    """Return a small residual network that has learned the striped images."""
    recipe = {"input_shape": [1, 8, 8], "num_outputs": 3, "width": 6, "blocks": [1]}
    network = Network.create(Architecture(factory="tasks.models.resnet:resnet", kwargs=recipe), seed=0)
    schedule = Schedule(epochs=10, batch_size=8)
    fit(network.module, images, label_loss("classification"), schedule, make_context())
    return network.to_bytes()
