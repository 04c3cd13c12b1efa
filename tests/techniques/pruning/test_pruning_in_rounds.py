"""What the techniques that prune in rounds have in common: they go on bit for bit, and may learn from a teacher."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import tasks.techniques.pruning.unit_pruning
from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.models.architecture import Network
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.prune_channels import PruneChannels
from tasks.techniques.pruning.prune_heads import PruneHeads
from tasks.techniques.pruning.prune_layers import PruneLayers
from tasks.techniques.pruning.pruning_in_rounds import PrunesInRounds
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

SHORT = Schedule(epochs=2, batch_size=16, learning_rate=1e-3, checkpoint_every=1)
VIT = Architecture(
    factory="tasks.models.vit:vit",
    kwargs={"input_shape": [1, 8, 8], "num_outputs": 3, "width": 8, "depth": 3, "heads": 4, "dropout": 0.2},
)
RESNET = Architecture(
    factory="tasks.models.resnet:resnet", kwargs={"input_shape": [1, 8, 8], "num_outputs": 3, "width": 8, "blocks": [1]}
)
NARROW = {"round_to": 1, "min_channels": 2, "rounds": 2, "fine_tune": SHORT}
TIMED = PruneChannels(latency_reduction=0.3, **NARROW)
SPECS: dict[str, PrunesInRounds] = {
    "heads": PruneHeads(ratio=0.5, rounds=2, fine_tune=SHORT),
    "layers": PruneLayers(num_layers=2, rounds=2, fine_tune=SHORT),
    "similar": PruneLayers(num_layers=2, rounds=2, criterion="similarity", fine_tune=SHORT),
    "hessian": PruneChannels(flops_reduction=0.2, criterion="hessian", scope="global", **NARROW),
    "taught": PruneChannels(parameters_reduction=0.2, teacher_weight=0.5, **NARROW),
    "timed": TIMED,
}


class KilledError(Exception):
    """Stands for the end of the process."""


class MortalStore:
    """A checkpoint store whose process dies just after one of its writes."""

    def __init__(self, surviving_saves: int) -> None:
        self.data: bytes | None = None
        self.left = surviving_saves

    def save(self, data: bytes) -> None:
        self.data = data
        self.left -= 1
        if self.left < 0:
            raise KilledError

    def load(self) -> bytes | None:
        return self.data


@pytest.fixture
def restless_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace timing by a measure that never comes out the same twice, as real ones do."""
    draw = np.random.default_rng(0)

    def measure(before: bytes, after: Network, rows: Arrays, seed: int) -> float:
        size = sum(parameter.numel() for parameter in after.module.parameters())
        return 1 - size / 1299 + float(draw.uniform(0, 0.2))

    monkeypatch.setattr(tasks.techniques.pruning.unit_pruning, "latency_reduction", measure)
    monkeypatch.setattr(tasks.techniques.pruning.unit_pruning, "to_onnx", lambda *arguments: b"")


@pytest.fixture(scope="module")
def teacher(images: Arrays, make_context: MakeContext) -> bytes:
    network = Network.create(RESNET, seed=1)
    fit(network.module, images, label_loss("classification"), Schedule(epochs=12, batch_size=8), make_context())
    return network.to_bytes()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.usefixtures("restless_clock")
def test_apply_ends_with_the_same_weights_and_history_when_it_was_killed(
    name: str, make_context: MakeContext, teacher: bytes
) -> None:
    spec = SPECS[name]
    architecture = RESNET if isinstance(spec, PruneChannels) else VIT
    incoming = Network.create(architecture, seed=0).to_bytes()

    def apply(store: MortalStore) -> tuple[Applied, list[EpochRecord]]:
        history: list[EpochRecord] = []
        context = make_context(checkpoints=store, report=history.append, load_baseline=lambda: teacher)
        return spec.apply(incoming, context), history

    uninterrupted = MortalStore(100)
    expected, full = apply(uninterrupted)
    assert len(full) == spec.planned_epochs
    for surviving_saves in (0, 2):  # in the first round, and in the second
        store = MortalStore(surviving_saves)
        with pytest.raises(KilledError):
            apply(store)
        store.left = 100
        resumed, history = apply(store)
        if name != "timed":  # a stage that is started twice from nothing may measure otherwise
            assert resumed.model == expected.model
            assert resumed.details == expected.details
            assert history == full
    finished, history = apply(uninterrupted)  # every epoch is saved: nothing is measured or trained again
    assert finished == expected
    assert history == full


def test_apply_recovers_with_a_teacher_and_does_not_load_it_when_its_weight_is_zero(
    make_context: MakeContext, teacher: bytes, images: Arrays
) -> None:
    spec = PruneChannels(ratio=0.5, round_to=1, min_channels=2, rounds=1, fine_tune=SHORT)
    alone = spec.apply(teacher, make_context(load_baseline=lambda: pytest.fail("the baseline is not needed")))
    taught = spec.model_copy(update={"teacher_weight": 1.0}).apply(
        teacher, make_context(load_baseline=lambda: teacher)
    )  # fmt: skip
    assert taught.model != alone.model
    x = torch.from_numpy(images.x)
    wanted = outputs_of(Network.from_bytes(teacher).module, x, 64)
    apart = [
        float((outputs_of(Network.from_bytes(each.model).module, x, 64) - wanted).square().mean())
        for each in (taught, alone)
    ]
    assert apart[0] < apart[1]  # it learned to answer as the teacher does


def test_goals_exclude_each_other_and_the_default_is_a_ratio() -> None:
    with pytest.raises(ValueError, match="ratio, flops_reduction are given, but pruning can have only one goal"):
        PruneChannels(ratio=0.3, flops_reduction=0.4)
    assert (PruneChannels().goal.field, PruneChannels().goal.share) == ("ratio", 0.3)
    assert PruneChannels(latency_reduction=0.4).goal.field == "latency_reduction"


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize(
    ("field", "cost"), [("flops_reduction", "multiply_adds"), ("parameters_reduction", "parameters")]
)
def test_apply_removes_what_the_goal_asks_for_and_little_more(
    field: str, cost: str, scope: str, make_context: MakeContext
) -> None:
    spec = PruneChannels.model_validate({field: 0.4, "scope": scope, **NARROW, "rounds": 1})
    wide = RESNET.model_copy(update={"kwargs": RESNET.kwargs | {"width": 24}})
    details = spec.apply(Network.create(wide, seed=0).to_bytes(), make_context()).details
    reduction = 1 - details[f"{cost}_after"] / details[f"{cost}_before"]
    assert 0.4 <= reduction < 0.5
    assert details[field] == pytest.approx(reduction)
    assert 0 < details["ratio"] < 0.4  # fewer channels on both sides of a convolution


def test_apply_refuses_a_goal_out_of_reach(make_context: MakeContext) -> None:
    incoming = Network.create(RESNET, seed=0).to_bytes()
    with pytest.raises(TechniqueError, match=r"flops_reduction=0.9 is out of reach.*lower min_channels"):
        PruneChannels(flops_reduction=0.9, round_to=1, min_channels=6).apply(incoming, make_context())


def test_apply_prunes_targets_only(make_context: MakeContext) -> None:
    spec = PruneChannels(ratio=0.5, targets=("stages.*.conv1",), **NARROW)
    details = spec.apply(Network.create(RESNET, seed=0).to_bytes(), make_context()).details
    assert details["channels_removed"] == "stages.0.0.conv1 8->4"
    assert "stem.conv (+1 tied): stem.conv is no target" in str(details["channels_kept_whole"])
    with pytest.raises(TechniqueError, match=r"targets='blocks.\*' matches no module"):
        PruneChannels(targets=("blocks.*",)).apply(Network.create(RESNET, seed=0).to_bytes(), make_context())


@pytest.mark.slow
def test_apply_reaches_a_latency_goal_on_this_machine(make_context: MakeContext) -> None:
    wide = RESNET.model_copy(update={"kwargs": RESNET.kwargs | {"width": 64, "blocks": [2]}})
    spec = PruneChannels(latency_reduction=0.4, **{**NARROW, "round_to": 8, "rounds": 1})
    details = spec.apply(Network.create(wide, seed=0).to_bytes(), make_context()).details
    assert details["measured_latency_reduction"] >= 0.4
    assert details["multiply_adds_after"] < 0.75 * details["multiply_adds_before"]
