from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord, Surgery
from tasks.models.architecture import Network
from tasks.techniques.distillation.distill_self import DistillSelf
from tasks.techniques.loss import Batch
from tasks.techniques.pruning.surgery import keep_channels
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

SHORT = Schedule(epochs=2, batch_size=16)
LEARNING = Schedule(epochs=8, batch_size=8, learning_rate=1e-2)


def test_apply_trains_generations_each_taught_by_the_one_before(teacher: bytes, make_context: MakeContext) -> None:
    """The same is trained by a plain loop that asks the parent for every batch."""
    parent, rows = teacher, make_context().load_split("train")
    for generation in (1, 2):
        frozen = Network.from_bytes(parent)
        child = Network.create(frozen.architecture, seed=5 + generation)

        def loss(outputs: Tensor, batch: Batch, module: torch.nn.Module = frozen.module) -> Tensor:
            with torch.no_grad():
                soft_targets = functional.softmax(module(batch.inputs) / 2, dim=1)
            soft = functional.cross_entropy(outputs / 2, soft_targets)  # KL + entropy: same gradient
            return 0.3 * functional.cross_entropy(outputs, batch.labels) + 0.7 * 4 * soft

        fit(child.module, rows, loss, LEARNING, make_context(seed=5), first_step=1 + 8 * (generation - 1))
        parent = child.to_bytes()
    records: list[EpochRecord] = []
    spec = DistillSelf(generations=2, temperature=2.0, label_weight=0.3, schedule=LEARNING)
    applied = spec.apply(teacher, make_context(seed=5, report=records.append))
    trained, expected = (Network.from_bytes(one).module.state_dict() for one in (applied.model, parent))
    torch.testing.assert_close(trained, expected, rtol=1e-2, atol=1e-3)
    assert [record.step for record in records] == list(range(1, spec.planned_epochs + 1))
    assert applied.details["teacher_accuracy"] == 1.0
    assert applied.details["last_generation_accuracy"] > 0.5
    assert not spec.starts_over


def test_apply_draws_new_weights_for_the_incoming_architecture_and_loads_no_baseline(
    teacher: bytes, make_context: MakeContext
) -> None:
    still = Schedule(epochs=1, batch_size=42, optimizer="sgd", learning_rate=1e-9)
    narrow = {"stem.conv": {"out": [0, 2, 3, 5]}, "stem.norm": {"norm": [0, 2, 3, 5]}}
    keep = narrow | {
        "stages.0.0.conv1": {"in": [0, 2, 3, 5]},
        "stages.0.0.conv2": {"out": [0, 2, 3, 5]},
        "stages.0.0.norm2": {"norm": [0, 2, 3, 5]},
        "head": {"in": [0, 2, 3, 5]},
    }
    network = Network.from_bytes(teacher)
    operation = Surgery(
        function="tasks.techniques.pruning.surgery:keep_channels", arguments={"keep": keep}
    )  # fmt: skip
    pruned = network.with_surgery(operation, keep_channels(network.module, keep))
    child = Network.from_bytes(DistillSelf(schedule=still).apply(pruned.to_bytes(), make_context()).model)
    assert child.architecture == pruned.architecture
    drawn = Network.create(pruned.architecture, seed=1).module
    torch.testing.assert_close(dict(child.module.named_parameters()), dict(drawn.named_parameters()))
    assert not torch.equal(drawn.get_parameter("head.weight"), network.module.get_parameter("head.weight"))


def test_apply_keeps_low_rank_layers(teacher: bytes, make_context: MakeContext) -> None:
    from tasks.techniques.factorization.surgery import factorized

    path, ranks = "stages.0.0.conv1", [2, 2]
    network = Network.from_bytes(teacher)
    arguments: dict[str, Any] = {"form": "tucker2", "ranks": {path: ranks}}
    operation = Surgery(function="tasks.techniques.factorization.surgery:split_layers", arguments=arguments)
    thin = network.with_surgery(operation, factorized(network.module, "tucker2", {path: (2, 2)}))
    child = Network.from_bytes(DistillSelf(schedule=SHORT).apply(thin.to_bytes(), make_context()).model)
    shapes = {name: tensor.shape for name, tensor in thin.module.state_dict().items()}
    assert {name: tensor.shape for name, tensor in child.module.state_dict().items()} == shapes
    assert sum(name.startswith(path) for name in shapes) > 1
    assert "low_rank" in DistillSelf.keeps


def test_apply_refuses_a_parent_that_is_no_teacher(teacher: bytes, make_context: MakeContext) -> None:
    untrained = Network.create(Network.from_bytes(teacher).architecture, seed=3).to_bytes()
    with pytest.raises(TechniqueError, match="accuracy on the 12 calibration rows is"):
        DistillSelf(teacher_floor=0.95, schedule=SHORT).apply(untrained, make_context())


def test_apply_learns_the_parents_outputs_when_the_task_is_regression(make_context: MakeContext) -> None:
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    split = Arrays(rows, rows.sum(axis=1))
    recipe = {"input_shape": [3], "num_outputs": 1, "hidden": []}
    parent = Network.create(Architecture(factory="tasks.models.mlp:mlp", kwargs=recipe), seed=0)
    with torch.no_grad():  # right but for its bias
        parent.module.get_parameter("2.weight").fill_(1.0)
        parent.module.get_parameter("2.bias").fill_(0.5)
    context = make_context(task="regression", input_shape=(3,), num_outputs=1, load_split=lambda name: split)
    schedule = Schedule(epochs=60, batch_size=64, learning_rate=0.2, weight_decay=0)
    applied = DistillSelf(label_weight=0.0, schedule=schedule).apply(parent.to_bytes(), context)
    bias = Network.from_bytes(applied.model).module.get_parameter("2.bias")
    assert bias.item() == pytest.approx(0.5, abs=0.05)  # the parent's, not the labels'
    assert applied.details["last_generation_r2"] == pytest.approx(float(applied.details["teacher_r2"]), abs=0.05)
