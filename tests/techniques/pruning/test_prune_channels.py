from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from sklearn.datasets import load_digits
from torch import nn

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.models.onnx_export import to_onnx
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.coupling import channels_to_keep
from tasks.techniques.pruning.criteria import group_scores
from tasks.techniques.pruning.graph import channel_groups
from tasks.techniques.pruning.iterative import Planner
from tasks.techniques.pruning.measures import multiply_adds, num_parameters
from tasks.techniques.pruning.planning import WidthRules, best_units
from tasks.techniques.pruning.prune_channels import PruneChannels
from tasks.techniques.pruning.scoring import Scorer
from tasks.techniques.pruning.surgery import keep_channels
from tasks.techniques.pruning.unit_pruning import UnitPruning, narrow_channels
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

SHORT = Schedule(epochs=2, batch_size=16, learning_rate=1e-3, checkpoint_every=1)
HALF = PruneChannels(ratio=0.5, rounds=3, round_to=2, min_channels=2, fine_tune=SHORT)


class KilledError(Exception):
    """Stands for the end of the process."""


def resnet_network(width: int = 8) -> Network:
    kwargs = {"input_shape": [1, 8, 8], "num_outputs": 3, "width": width, "blocks": [1, 1], "dropout": 0.2}
    return Network.create(Architecture(factory="tasks.models.resnet:resnet", kwargs=kwargs), seed=0)


def prune_half(network: Network, x: torch.Tensor, number: int = 1, num_rounds: int = 1) -> Network:
    """Prune half the channels by l2, or the share of a round on the way."""
    rows = Arrays(x.numpy(), np.zeros(len(x), dtype=np.int64))
    pruning = UnitPruning(
        find=partial(channel_groups, example=x),
        scorer=Scorer(criterion="l2", rows=rows, loss=label_loss("classification"), num_rows=8, seed=0),
        rules=WidthRules(scope="local", round_to=2, min_channels=2),
        narrow=narrow_channels,
        num_rounds=num_rounds,
        unit="channel",
        limits={},
    )
    planner = Planner.judge(network.module, pruning.find, pruning.scorer, pruning.rules)
    return pruning.round(planner.plan(0.5), {}, network, number)[0]


def test_apply_reports_what_was_worked_by_hand(make_context: MakeContext) -> None:
    records: list[EpochRecord] = []
    applied = HALF.apply(resnet_network().to_bytes(), make_context(report=records.append))
    # stem, two convolutions of 8, then a block to 16 with projection, and the head; batch norms have 2 a channel
    before = 72 + 16 + 2 * (576 + 16) + (1152 + 32) + (2304 + 32) + (128 + 32) + (16 * 3 + 3)
    after = 36 + 8 + 2 * (144 + 8) + (288 + 16) + (576 + 16) + (32 + 16) + (8 * 3 + 3)
    adds_before = 64 * (72 + 2 * 576) + 16 * (1152 + 2304 + 128) + 48
    adds_after = 64 * (36 + 2 * 144) + 16 * (288 + 576 + 32) + 24
    assert applied.details == {
        "parameters_before": before,
        "parameters_after": after,
        "multiply_adds_before": adds_before,
        "multiply_adds_after": adds_after,
        "share_of_channels_removed": 0.5,
        "channels_removed": "stem.conv (+1 tied) 8->4, stages.0.0.conv1 8->4, stages.1.0.conv1 16->8, "
        "stages.1.0.conv2 (+1 tied) 16->8",
        "channels_kept_whole": "head: output of the network",
        "rounds": 3,
    }
    assert [record.step for record in records] == list(range(1, HALF.planned_epochs + 1))
    reloaded = Network.from_bytes(applied.model)
    assert num_parameters(reloaded.module) == after
    assert len(reloaded.architecture.surgeries) == 3


def test_apply_learns_again_what_the_network_knew(make_context: MakeContext, images: Arrays) -> None:
    network = resnet_network(width=16)
    fit(network.module, images, label_loss("classification"), Schedule(epochs=12, batch_size=8), make_context())
    records: list[EpochRecord] = []
    spec = PruneChannels(ratio=0.5, fine_tune=Schedule(epochs=4, batch_size=8, learning_rate=1.5e-3))
    applied = spec.apply(network.to_bytes(), make_context(report=records.append))
    outputs = outputs_of(Network.from_bytes(applied.model).module, torch.from_numpy(images.x), 64)
    assert (outputs.argmax(1).numpy() == images.y).mean() > 0.95


def test_apply_learns_regression_on_a_table(make_context: MakeContext) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 5)).astype(np.float32)
    split = Arrays(x, x.sum(axis=1))
    kwargs = {"input_shape": [5], "num_outputs": 1, "hidden": [16, 16]}
    network = Network.create(Architecture(factory="tasks.models.mlp:mlp", kwargs=kwargs), seed=0)
    context = make_context(task="regression", input_shape=(5,), num_outputs=1, load_split=lambda name: split)
    applied = HALF.apply(network.to_bytes(), context)
    assert applied.details["parameters_after"] == 5 * 8 + 8 + 8 * 8 + 8 + 8 + 1
    assert Network.from_bytes(applied.model).module(torch.from_numpy(x)).shape == (64, 1)


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("criterion", ["l1", "bn_scale", "taylor", "hessian", "random"])
def test_apply_takes_every_criterion_and_scope(scope: str, criterion: str, make_context: MakeContext) -> None:
    fields = HALF.model_dump() | {"scope": scope, "criterion": criterion, "rounds": 1}
    applied = PruneChannels.model_validate(fields).apply(resnet_network().to_bytes(), make_context())
    assert applied.details["share_of_channels_removed"] == pytest.approx(0.5, abs=0.1)
    assert "raise rounds" in str(applied.details["warning"])


@pytest.fixture(scope="module")
def uninterrupted(make_context: MakeContext) -> tuple[Applied, list[EpochRecord]]:
    """Return what comes out when nothing is killed, and the history."""
    history: list[EpochRecord] = []
    return HALF.apply(resnet_network().to_bytes(), make_context(report=history.append)), history


class MortalStore:
    """A checkpoint store whose process dies just before or just after one of its writes."""

    def __init__(self, surviving_saves: int, *, writes_the_last: bool) -> None:
        self.data: bytes | None = None
        self._left = surviving_saves
        self._writes_the_last = writes_the_last

    def save(self, data: bytes) -> None:
        if self._left or self._writes_the_last:
            self.data = data
        if not self._left:
            raise KilledError
        self._left -= 1

    def load(self) -> bytes | None:
        return self.data

    def revive(self) -> None:
        self._left = 100


@pytest.mark.parametrize(
    ("surviving_saves", "writes_the_last"),
    [*((saves, True) for saves in range(6)), (0, False), (2, False), (5, False)],
)
def test_apply_ends_with_the_same_weights_and_history_when_it_was_killed(
    surviving_saves: int,
    writes_the_last: bool,
    make_context: MakeContext,
    uninterrupted: tuple[Applied, list[EpochRecord]],
) -> None:
    expected, full = uninterrupted
    incoming = resnet_network().to_bytes()
    store = MortalStore(surviving_saves, writes_the_last=writes_the_last)
    with pytest.raises(KilledError):
        HALF.apply(incoming, make_context(checkpoints=store))
    store.revive()
    history: list[EpochRecord] = []
    resumed = HALF.apply(incoming, make_context(checkpoints=store, report=history.append))
    assert resumed.model == expected.model
    assert resumed.details == expected.details
    assert history == full


def test_apply_trains_nothing_again_when_every_epoch_was_saved(
    make_context: MakeContext, uninterrupted: tuple[Applied, list[EpochRecord]]
) -> None:
    store = MortalStore(100, writes_the_last=True)
    HALF.apply(resnet_network().to_bytes(), make_context(checkpoints=store))
    finished = MortalStore(0, writes_the_last=False)  # a save would raise
    finished.data = store.data
    resumed = HALF.apply(resnet_network().to_bytes(), make_context(checkpoints=finished))
    assert resumed.model == uninterrupted[0].model


def test_pruned_network_gives_the_same_outputs_when_it_is_reloaded_and_pruned_again() -> None:
    network, x = resnet_network(), torch.randn(4, 1, 8, 8)
    first = prune_half(network, x, num_rounds=2)
    again = Network.from_bytes(first.to_bytes())
    torch.testing.assert_close(again.module(x), first.module.eval()(x), rtol=0, atol=0)
    second = prune_half(again, x)
    reloaded = Network.from_bytes(second.to_bytes())
    torch.testing.assert_close(reloaded.module(x), second.module(x), rtol=0, atol=0)
    assert reloaded.module.get_submodule("stem.conv").out_channels == 4  # 8, 6, and the wider of 2 and 4
    assert reloaded.to_bytes() == second.to_bytes()


def test_pruned_network_exports_and_onnxruntime_agrees() -> None:
    network, x = resnet_network(), torch.randn(4, 1, 8, 8)
    pruned = prune_half(network, x)
    session = InferenceSession(to_onnx(pruned, (1, 8, 8), "float32"), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(outputs, pruned.module.eval()(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_apply_refuses_when_nothing_can_be_removed(make_context: MakeContext) -> None:
    with pytest.raises(TechniqueError, match=r"ratio=0.3 with round_to=16 .* removes no channel .*Raise ratio"):
        PruneChannels(round_to=16).apply(resnet_network().to_bytes(), make_context())
    with pytest.raises(TechniqueError, match="no layer that may shrink"):
        PruneChannels(ignore=("st*",)).apply(resnet_network().to_bytes(), make_context())


def test_multiply_adds_count_one_row_and_leave_the_mode() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)).train()
    assert multiply_adds(module, torch.zeros(5, 1, 8, 8)) == 36 * 2 * 9 + 72 * 3
    assert module.training


def test_l2_keeps_more_accuracy_than_chance_before_fine_tuning(make_context: MakeContext) -> None:
    digits = load_digits()
    data = Arrays((digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64))
    x, labels = torch.from_numpy(data.x), torch.from_numpy(data.y)
    kwargs = {"input_shape": [1, 8, 8], "num_outputs": 10, "hidden": [64, 32]}

    def accuracy(trained: bytes, scores_of: Callable[..., np.ndarray]) -> float:
        module = Network.from_bytes(trained).module
        groups = channel_groups(module, x[:2])
        kept = {
            group.key: best_units(scores_of(module, group), round(0.8 * group.num_units))
            for group in groups
            if group.reason is None
        }
        keep_channels(module, channels_to_keep(groups, kept))
        return float((outputs_of(module, x, 1024).argmax(1) == labels).float().mean())

    by_l2, by_chance = [], []
    for seed in range(3):
        network = Network.create(Architecture(factory="tasks.models.mlp:mlp", kwargs=kwargs), seed=seed)
        schedule = Schedule(epochs=6, batch_size=64, learning_rate=1e-2)
        fit(network.module, data, label_loss("classification"), schedule, make_context(seed=seed))
        trained, generator = network.to_bytes(), np.random.default_rng(seed)
        by_l2.append(accuracy(trained, lambda module, group: group_scores(module, group, "l2").numpy()))
        by_chance += [
            accuracy(trained, lambda module, group, drawn=generator: drawn.random(group.num_units)) for _ in range(8)
        ]
    assert np.mean(by_l2) > np.mean(by_chance) + 2 * np.std(by_chance) / np.sqrt(len(by_chance))
