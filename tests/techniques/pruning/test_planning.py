import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime import InferenceSession
from torch import Tensor, nn

from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.models.onnx_export import to_onnx
from tasks.techniques.pruning.coupling import Group, Member, channels_to_keep
from tasks.techniques.pruning.criteria import group_scores
from tasks.techniques.pruning.graph import channel_groups
from tasks.techniques.pruning.iterative import prunable
from tasks.techniques.pruning.planning import Scope, WidthRules, best_units, final_widths, width_after
from tasks.techniques.pruning.surgery import keep_channels
from tasks.techniques.pruning.unit_pruning import narrow_channels


def group(num_units: int, per_unit: int = 1) -> Group:
    channels = np.arange(num_units * per_unit).reshape(per_unit, num_units).T
    return Group((Member(f"layer{num_units}", "out", channels),), None)


def widths(groups: list[Group], ratio: float, scope: Scope = "local", round_to: int = 1, floor: int = 2) -> list[int]:
    scores = [np.arange(1.0, each.num_units + 1) for each in groups]
    rules = WidthRules(scope=scope, round_to=round_to, min_channels=floor)
    return final_widths(groups, scores, rules, ratio=ratio)


@pytest.mark.parametrize(
    ("original", "ratio", "round_to", "floor", "expected"),
    [
        (64, 0.3, 1, 2, 45),  # 44.8
        (64, 0.3, 8, 2, 48),  # 44.8 is nearer to 48 than to 40
        (64, 0.375, 16, 2, 48),  # 40 is half way: the wider
        (16, 0.3, 8, 2, 8),  # 11.2
        (16, 0.2, 8, 2, 16),  # 12.8
        (20, 0.15, 8, 2, 16),  # 17
        (20, 0.05, 8, 2, 20),  # 19 is nearer to what it was than to 16
        (6, 0.5, 8, 2, 6),  # narrower than a multiple
        (64, 0.9, 1, 12, 12),
        (64, 0.9, 8, 12, 16),  # the first multiple that is wide enough
        (10, 0.9, 1, 12, 10),
        (4, 0.99, 1, 2, 2),
    ],
)
def test_final_widths_are_the_nearest_allowed_multiple(
    original: int, ratio: float, round_to: int, floor: int, expected: int
) -> None:
    assert widths([group(original)], ratio, round_to=round_to, floor=floor) == [expected]


def test_final_widths_count_channels_of_layers_when_a_unit_is_several() -> None:
    assert widths([group(32, per_unit=2)], 0.3, round_to=8) == [24]  # 44.8 of 64 channels: 48
    assert widths([group(6, per_unit=4)], 0.5, round_to=8, floor=16) == [4]  # 12 of 24 channels: the floor of 16


def test_final_widths_rank_all_groups_by_their_relative_scores_when_global() -> None:
    groups = [group(4), group(8)]
    # relative scores are 4/10 of 1 2 3 4 and 8/36 of 1 ... 8: the four lowest are .22 .40 .44 .67
    assert widths(groups, 4 / 12, "global") == [3, 5]


def test_final_widths_pass_over_groups_at_their_floor_when_global() -> None:
    scores = [np.array([1.0, 1, 1, 1]), np.array([0.1, 0.1, 0.1, 9])]
    rules = WidthRules(scope="global", round_to=1, min_channels=3)
    assert final_widths([group(4), group(4)], scores, rules, ratio=0.5) == [
        3,
        3,
    ]  # not 4 and 0, and never below the floor


def test_final_widths_rank_scores_as_they_are_when_they_compare_across_layers() -> None:
    scores = [np.array([10.0, 11, 12, 13]), np.array([1.0, 2, 3, 4])]
    rules = WidthRules(scope="global", round_to=1, min_channels=1, min_units=1)
    groups = [group(4), group(4)]
    assert final_widths(groups, scores, rules, ratio=0.5, compares_layers=True) == [3, 1]
    assert final_widths(groups, scores, rules, ratio=0.5) == [2, 2]  # relative to 11.5 and 2.5


@pytest.mark.parametrize("scope", ["local", "global"])
def test_final_widths_never_grow_when_the_ratio_does(scope: Scope) -> None:
    groups = [group(24), group(10), group(8, per_unit=2)]
    found = [widths(groups, ratio / 50, scope, round_to=4) for ratio in range(51)]
    for wider, narrower in itertools.pairwise(found):
        assert all(one >= other for one, other in zip(wider, narrower, strict=True))


def test_width_after_goes_in_equal_steps_to_the_final_width() -> None:
    assert [width_after(number, 3, 64, 48) for number in (1, 2, 3)] == [59, 54, 48]
    assert width_after(1, 1, 10, 10) == 10


def test_best_units_keep_the_highest_in_their_order() -> None:
    assert best_units(np.array([0.5, 2.0, 0.1, 2.0, 0.5]), 3).tolist() == [0, 1, 3]


class Chain(nn.Module):
    """A random network: each block adds to, concatenates with, or replaces what comes before it."""

    def __init__(self, blocks: list[tuple[str, int]]) -> None:
        super().__init__()
        width = blocks[0][1]
        self.stem, self.blocks, self.kinds = nn.Conv2d(1, width, 3, padding=1), nn.ModuleList(), []
        for kind, wanted in blocks:
            outputs = width if kind in ("add", "depthwise") else wanted
            convolution = nn.Conv2d(width, outputs, 3, padding=1, groups=width if kind == "depthwise" else 1)
            self.blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU()))
            self.kinds.append(kind)
            width = width + outputs if kind == "concat" else outputs
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for kind, block in zip(self.kinds, self.blocks, strict=True):
            y = block(x)
            x = x + y if kind == "add" else torch.cat([x, y], 1) if kind == "concat" else y
        return self.head(x.mean((2, 3)))


block = st.tuples(st.sampled_from(["add", "concat", "depthwise", "replace"]), st.integers(2, 20))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    blocks=st.lists(block, min_size=1, max_size=4),
    ratio=st.floats(0.05, 0.95),
    rounds=st.integers(1, 3),
    round_to=st.sampled_from([1, 2, 4, 8]),
    min_channels=st.integers(2, 10),
    scope=st.sampled_from(["local", "global"]),
)
def test_pruning_random_networks_keeps_outputs_widths_and_promises(
    mask_units: Callable[..., nn.Module],
    blocks: list[tuple[str, int]],
    ratio: float,
    rounds: int,
    round_to: int,
    min_channels: int,
    scope: Scope,
) -> None:
    torch.manual_seed(0)
    network = Chain(blocks).double().eval()
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    groups = [each for each in channel_groups(network, x) if each.reason is None]
    scores = [group_scores(network, each, "l2").numpy() for each in groups]
    rules = WidthRules(scope=scope, round_to=round_to, min_channels=min_channels)
    final = final_widths(groups, scores, rules, ratio=ratio)
    original = {each.key: each.num_units for each in groups}
    target = dict(zip(original, final, strict=True))
    for key, width in target.items():
        assert width == original[key] or width % round_to == 0
        assert width >= min(min_channels, original[key])
        if scope == "local" and min_channels <= width < original[key]:
            floor = -(-max(2, min_channels) // round_to) * round_to
            assert abs(width - (1 - ratio) * original[key]) <= round_to / 2 + 1e-9 or width == floor
    pruned = network
    for number in range(1, rounds + 1):
        current = channel_groups(pruned, x)
        kept = {
            each.key: best_units(
                group_scores(pruned, each, "l2").numpy(),
                width_after(number, rounds, original[each.key], target[each.key]),
            )
            for each in current
            if each.reason is None
        }
        expected = mask_units(pruned, current, kept)(x)
        pruned = keep_channels(copy.deepcopy(pruned), channels_to_keep(current, kept))
        torch.testing.assert_close(pruned(x), expected, rtol=1e-9, atol=1e-12)
    reached = {each.key: each.num_units for each in channel_groups(pruned, x) if each.reason is None}
    assert reached == target


@pytest.mark.slow  # an export each
@settings(max_examples=6, deadline=None, derandomize=True)
@given(blocks=st.lists(block, min_size=1, max_size=4), ratio=st.floats(0.2, 0.9))
def test_random_networks_answer_the_same_when_pruned_saved_reloaded_and_exported(
    blocks: list[tuple[str, int]], ratio: float
) -> None:
    recipe = Architecture(factory=f"{Chain.__module__}:Chain", kwargs={"blocks": [list(each) for each in blocks]})
    network = Network.create(recipe, seed=0)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    groups = channel_groups(network.module, x)
    chosen = prunable(groups)
    scores = [group_scores(network.module, each, "l2").numpy() for each in chosen]
    widths_left = final_widths(chosen, scores, WidthRules(scope="global", round_to=1, min_channels=2), ratio=ratio)
    kept = {each.key: best_units(score, width) for each, score, width in zip(chosen, scores, widths_left, strict=True)}
    pruned = narrow_channels(network, groups, kept)
    expected = pruned.module.eval()(x)
    reloaded = Network.from_bytes(pruned.to_bytes())
    assert torch.equal(reloaded.module(x), expected)
    session = InferenceSession(to_onnx(reloaded, (1, 4, 4), "float32"), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"input": x.numpy()})
    np.testing.assert_allclose(outputs, expected.detach().numpy(), rtol=1e-3, atol=1e-5)
