from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.evaluation.onnx_graph import load_graph
from tasks.evaluation.onnx_zeros import zero_share
from tasks.models.architecture import Network
from tasks.models.masking import masks_of, set_masks, with_masks
from tasks.models.onnx_export import to_onnx
from tasks.models.parametrizations import without_parametrizations
from tasks.techniques.pruning.prune_two_four import PruneTwoFour
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import StageContext

MakeContext = Callable[..., StageContext]

SHORT = Schedule(epochs=2, batch_size=14, learning_rate=1e-3, checkpoint_every=1)
SPEC = PruneTwoFour(fine_tune=SHORT)
RESNET = Architecture(
    factory="tasks.models.resnet:resnet",
    kwargs={"input_shape": [1, 8, 8], "num_outputs": 3, "width": 8, "blocks": [1]},
)
MOBILENET = Architecture(
    factory="tasks.models.mobilenet:mobilenet",
    kwargs={"input_shape": [1, 8, 8], "num_outputs": 3, "width": 8, "blocks": [1], "expansion": 2},
)


def groups_of(weight: torch.Tensor, m: int) -> torch.Tensor:
    """Return the weights as channels-last kernels read them, [groups, m]."""
    return weight.movedim(1, -1).reshape(-1, m)


def plain_weight(model: bytes, path: str) -> torch.Tensor:
    return without_parametrizations(Network.from_bytes(model).module).get_parameter(f"{path}.weight").detach()


def test_apply_leaves_two_of_each_four_neighbouring_inputs(make_context: MakeContext) -> None:
    history: list[EpochRecord] = []
    applied = SPEC.apply(Network.create(RESNET, seed=0).to_bytes(), make_context(report=history.append))
    for path in ("stages.0.0.conv1", "stages.0.0.conv2", "head"):
        nonzero = (groups_of(plain_weight(applied.model, path), 4) != 0).sum(dim=1)
        assert nonzero.tolist() == [2] * len(nonzero), path
    assert bool((plain_weight(applied.model, "stem.conv") != 0).all())
    assert applied.details["layers_left_dense"] == "stem.conv"
    assert applied.details["pattern"] == "2 of 4 along the input channels"
    assert applied.details["sparsity"] == 0.5
    assert applied.details["parameters_nonzero"] == pytest.approx(72 + (2 * 576 + 24) / 2 + 3 * 16 + 3, abs=24)
    assert len(history) == SPEC.planned_epochs
    graph = load_graph(to_onnx(Network.from_bytes(applied.model), (1, 8, 8), "float32"))
    assert zero_share(graph) == pytest.approx((576 + 12) / (72 + 1152 + 24))


def test_apply_keeps_the_largest_of_each_group_by_magnitude(make_context: MakeContext) -> None:
    network = Network.create(RESNET, seed=0)
    given = network.module.get_parameter("stages.0.0.conv1.weight").detach().clone()
    applied = SPEC.apply(network.to_bytes(), make_context())
    kept = groups_of(masks_of(Network.from_bytes(applied.model).module)["stages.0.0.conv1"], 4)
    magnitudes = groups_of(given.abs(), 4)
    smallest_kept = magnitudes.masked_fill(~kept, torch.inf).min(dim=1).values
    largest_gone = magnitudes.masked_fill(kept, -torch.inf).max(dim=1).values
    assert bool((smallest_kept >= largest_gone).all())


def test_apply_leaves_depthwise_convolutions_dense_and_takes_other_patterns(make_context: MakeContext) -> None:
    spec = PruneTwoFour(n=1, m=8, criterion="taylor", score_rows=8, fine_tune=SHORT)
    applied = spec.apply(Network.create(MOBILENET, seed=0).to_bytes(), make_context())
    assert applied.details["layers_left_dense"] == "stem.conv, stages.0.0.depthwise.conv"
    assert applied.details["sparsity"] == pytest.approx(7 / 8)


def test_apply_keeps_older_zeros(make_context: MakeContext) -> None:
    network = with_masks(Network.create(RESNET, seed=0), ["head"])
    older = torch.zeros(3, 8, dtype=torch.bool)
    older[:, 4:7] = True
    set_masks(network.module, {"head": older})
    applied = SPEC.apply(network.to_bytes(), make_context())
    mask = masks_of(Network.from_bytes(applied.model).module)["head"]
    assert not bool((mask & ~older).any())
    assert mask.sum(dim=1).tolist() == [2, 2, 2]


class MortalStore:
    """A checkpoint store whose process dies right after its first write."""

    def __init__(self) -> None:
        self.data: bytes | None = None

    def save(self, data: bytes) -> None:
        is_first, self.data = self.data is None, data
        if is_first:
            raise KeyboardInterrupt

    def load(self) -> bytes | None:
        return self.data


def test_apply_ends_with_the_same_weights_when_it_was_killed(make_context: MakeContext) -> None:
    model, store = Network.create(RESNET, seed=0).to_bytes(), MortalStore()
    expected = SPEC.apply(model, make_context())
    with pytest.raises(KeyboardInterrupt):
        SPEC.apply(model, make_context(checkpoints=store))
    assert SPEC.apply(model, make_context(checkpoints=store)) == expected


def test_apply_refuses_when_no_layer_has_groups_or_nothing_is_left_to_remove(make_context: MakeContext) -> None:
    model = Network.create(RESNET, seed=0).to_bytes()
    with pytest.raises(TechniqueError, match=r"no targeted layer has a multiple of m=4 .*\(stem\.conv 1\)"):
        PruneTwoFour(targets=("stem.*",), fine_tune=SHORT).apply(model, make_context())
    pruned = SPEC.apply(model, make_context()).model
    with pytest.raises(TechniqueError, match="at most 2 of each 4 weights are left already"):
        SPEC.apply(pruned, make_context())


def test_prune_two_four_rejects_a_pattern_that_removes_nothing() -> None:
    with pytest.raises(ValidationError, match="n=4 must be below m=4"):
        PruneTwoFour(n=4, m=4)
