"""Every architecture that ships prunes, is the masked network, exports, reloads and trains on."""

import copy
import json
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from torch import nn
from torch.nn.utils import parametrize

from tasks.contracts.errors import ModelError, TechniqueError
from tasks.contracts.model import Architecture, Surgery
from tasks.models.architecture import Network
from tasks.models.masking import masks_of, set_masks, with_masks
from tasks.models.onnx_export import to_onnx
from tasks.techniques.factorization.surgery import split_layers
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.coupling import channels_to_keep
from tasks.techniques.pruning.graph import channel_groups
from tasks.techniques.pruning.heads import head_groups
from tasks.techniques.pruning.iterative import prunable
from tasks.techniques.pruning.masks import require_plain_or_masked
from tasks.techniques.pruning.measures import multiply_adds
from tasks.techniques.pruning.prune_channels import PruneChannels
from tasks.techniques.pruning.prune_heads import PruneHeads
from tasks.techniques.pruning.prune_layers import PruneLayers
from tasks.techniques.pruning.pruning_in_rounds import PrunesInRounds
from tasks.techniques.pruning.surgery import keep_channels
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext, TechniqueSpec
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]
SHORT = Schedule(epochs=1, batch_size=16, learning_rate=1e-3)
IMAGES = {"input_shape": [1, 8, 8], "num_outputs": 3}
ARCHITECTURES = {
    "resnet": Architecture(factory="tasks.models.resnet:resnet", kwargs={**IMAGES, "width": 8, "blocks": [2, 1]}),
    "mobilenet": Architecture(
        factory="tasks.models.mobilenet:mobilenet", kwargs={**IMAGES, "width": 8, "blocks": [2, 1], "expansion": 2}
    ),
    "vit": Architecture(factory="tasks.models.vit:vit", kwargs={**IMAGES, "width": 12, "depth": 2, "heads": 3}),
    "text_encoder": Architecture(
        factory="tasks.models.text_encoder:text_encoder",
        kwargs={"input_shape": [6], "num_outputs": 3, "vocab_size": 11, "width": 12, "depth": 2, "heads": 3},
    ),
    "mlp": Architecture(factory="tasks.models.mlp:mlp", kwargs={**IMAGES, "hidden": [24, 16]}),
}
CHANNELS = PruneChannels(ratio=0.5, round_to=2, min_channels=2, rounds=2, fine_tune=SHORT, criterion="hessian")
HEADS = PruneHeads(ratio=0.5, rounds=1, fine_tune=SHORT)
LAYERS = PruneLayers(fine_tune=SHORT)
CHAINS: dict[str, tuple[PrunesInRounds, ...]] = {
    "resnet": (LAYERS, CHANNELS),
    "mobilenet": (CHANNELS, LAYERS),
    "vit": (HEADS, CHANNELS, LAYERS),
    "text_encoder": (LAYERS, CHANNELS, HEADS),
    "mlp": (CHANNELS,),
}


def texts(num_rows: int, seed: int) -> Arrays:
    """Draw rows of token ids with padding at their end; the first token tells the class."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(4, 11, (num_rows, 6))
    labels = np.arange(num_rows) % 3
    ids[:, 0] = labels + 1
    ids[np.arange(6) >= draw.integers(2, 7, num_rows)[:, None]] = 0
    return Arrays(ids, labels)


@pytest.fixture
def rows_for(draw_images: Callable[[int, int], Arrays]) -> Callable[[str], Callable[[str], Arrays]]:
    """Return a function from an architecture to its loader of splits."""

    def for_name(name: str) -> Callable[[str], Arrays]:
        draw = texts if name == "text_encoder" else draw_images
        return cache(lambda split: draw({"train": 48, "calibration": 12, "validation": 12}[split], len(split)))

    return for_name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pruned_network_is_the_masked_one(
    name: str, rows_for: Callable[[str], Callable[[str], Arrays]], mask_units: Callable[..., nn.Module]
) -> None:
    network = Network.create(ARCHITECTURES[name], seed=0).module.double().eval()
    x = torch.from_numpy(rows_for(name)("calibration").x)
    x = x.double() if x.is_floating_point() else x
    groups, draw = channel_groups(network, x), np.random.default_rng(0)
    kept = {group.key: np.sort(draw.permutation(group.num_units)[: group.num_units // 2]) for group in prunable(groups)}
    assert kept
    masked = mask_units(network, groups, kept)
    pruned = keep_channels(copy.deepcopy(network), json.loads(json.dumps(channels_to_keep(groups, kept))))
    torch.testing.assert_close(pruned(x), masked(x), rtol=1e-10, atol=1e-12)
    assert multiply_adds(pruned, x) < 0.8 * multiply_adds(network, x)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_prunes_reloads_exports_and_trains_on(
    name: str, rows_for: Callable[[str], Callable[[str], Arrays]], make_context: MakeContext
) -> None:
    rows = rows_for(name)
    train = rows("train")
    model = Network.create(ARCHITECTURES[name], seed=0).to_bytes()
    for spec in CHAINS[name]:
        applied = spec.apply(model, make_context(load_split=rows, input_shape=train.x.shape[1:]))
        model = applied.model
        assert applied.details["multiply_adds_after"] < applied.details["multiply_adds_before"]
    network = Network.from_bytes(model)
    assert network.to_bytes() == model
    session = InferenceSession(
        to_onnx(network, train.x.shape[1:], str(train.x.dtype)), providers=["CPUExecutionProvider"]
    )
    (outputs,) = session.run(None, {"input": train.x})
    expected = network.module(torch.from_numpy(train.x)).detach().numpy()
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4)
    loss = label_loss("classification")
    schedule = Schedule(epochs=2, batch_size=16, learning_rate=3e-3)
    fit(network.module, train, loss, schedule, make_context())
    assert not np.allclose(network.module(torch.from_numpy(train.x)).detach().numpy(), expected)


@pytest.mark.parametrize("name", ["vit", "text_encoder"])
def test_transformers_lose_hidden_width_and_keep_their_embeddings(
    name: str, rows_for: Callable[[str], Callable[[str], Arrays]]
) -> None:
    module = Network.create(ARCHITECTURES[name], seed=0).module
    groups = channel_groups(module, torch.from_numpy(rows_for(name)("calibration").x[:2]))
    assert [group.producers[0].path for group in prunable(groups)] == ["blocks.0.expand", "blocks.1.expand"]
    assert all(group.num_units == 24 for group in prunable(groups))


def half_masked(network: Network) -> Network:
    """Hide half the weights of every layer, at random."""
    layers = [path for path, part in network.module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    masked = with_masks(network, layers)
    draw = torch.Generator().manual_seed(0)
    masks = masks_of(masked.module)
    set_masks(masked.module, {path: torch.rand(mask.shape, generator=draw) < 0.5 for path, mask in masks.items()})
    return masked


@pytest.mark.parametrize(
    ("name", "spec"),
    [("resnet", CHANNELS), ("mobilenet", CHANNELS), ("vit", CHANNELS), ("vit", HEADS), ("resnet", LAYERS)],
)
def test_sparsity_is_kept_when_a_masked_network_is_pruned(
    name: str, spec: TechniqueSpec, rows_for: Callable[[str], Callable[[str], Arrays]], make_context: MakeContext
) -> None:
    incoming = half_masked(Network.create(ARCHITECTURES[name], seed=0))
    applied = spec.apply(incoming.to_bytes(), make_context(load_split=rows_for(name)))
    assert "sparsity" in spec.keeps
    pruned = Network.from_bytes(applied.model).module
    masks = masks_of(pruned)
    assert masks
    for path, mask in masks.items():
        weight = pruned.get_submodule(path).weight
        assert mask.shape == weight.shape
        assert (weight[~mask] == 0).all()
    zeros = sum(int((~mask).sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    assert zeros == pytest.approx(0.5, abs=0.05)


def test_masked_network_prunes_to_the_same_outputs_as_its_plain_twin(
    rows_for: Callable[[str], Callable[[str], Arrays]],
) -> None:
    masked = half_masked(Network.create(ARCHITECTURES["resnet"], seed=0)).module.eval()
    x = torch.from_numpy(rows_for("resnet")("calibration").x)
    plain = Network.create(ARCHITECTURES["resnet"], seed=0).module.eval()
    for path in masks_of(masked):
        plain.get_submodule(path).weight.data = masked.get_submodule(path).weight.detach()
    groups = channel_groups(masked, x)
    assert [group.key for group in groups] == [group.key for group in channel_groups(plain, x)]
    keep = channels_to_keep(groups, {group.key: np.arange(group.num_units // 2) for group in prunable(groups)})
    assert torch.equal(keep_channels(masked, keep)(x), keep_channels(plain, keep)(x))


def test_apply_refuses_to_break_two_four_sparsity(
    rows_for: Callable[[str], Callable[[str], Arrays]], make_context: MakeContext
) -> None:
    network = with_masks(Network.create(ARCHITECTURES["mlp"], seed=0), ["4"])
    set_masks(network.module, {"4": torch.tensor([True, True, False, False]).repeat(16, 6)})
    with pytest.raises(TechniqueError, match=r"would break its 2:4 sparsity.*before prune_two_four"):
        CHANNELS.apply(network.to_bytes(), make_context(load_split=rows_for("mlp")))
    spared = CHANNELS.model_copy(update={"ignore": ("2",)})
    spared.apply(network.to_bytes(), make_context(load_split=rows_for("mlp")))


class Doubled(nn.Module):
    """Computes a weight in a way that nobody knows how to narrow."""

    def forward(self, original: torch.Tensor) -> torch.Tensor:
        return 2 * original


def test_weights_that_are_computed_otherwise_are_refused() -> None:
    module = Network.create(ARCHITECTURES["mlp"], seed=0).module
    parametrize.register_parametrization(module[2], "weight", Doubled())
    with pytest.raises(TechniqueError, match=r"the weights of '2' are computed by Doubled .* prune before"):
        require_plain_or_masked(module)
    with pytest.raises(ModelError, match="computed by more than masks"):
        keep_channels(module, {"2": {"out": [0, 1]}})


def with_low_rank(network: Network, ranks: dict[str, list[int]]) -> Network:
    arguments = {"form": "tucker2", "ranks": ranks}
    operation = Surgery(function="tasks.techniques.factorization.surgery:split_layers", arguments=arguments)
    return network.with_surgery(operation, split_layers(network.module, **arguments))


@pytest.mark.parametrize(
    ("name", "spec", "ranks"),
    [
        ("mlp", CHANNELS, {"4": [6]}),
        ("vit", HEADS, {"blocks.0.expand": [4]}),
        ("vit", LAYERS, {"blocks.0.expand": [4], "blocks.1.expand": [4]}),
    ],
)
def test_low_rank_is_kept_when_a_factorized_network_is_pruned(
    name: str,
    spec: TechniqueSpec,
    ranks: dict[str, list[int]],
    rows_for: Callable[[str], Callable[[str], Arrays]],
    make_context: MakeContext,
) -> None:
    incoming = with_low_rank(Network.create(ARCHITECTURES[name], seed=0), ranks)
    applied = spec.apply(incoming.to_bytes(), make_context(load_split=rows_for(name)))
    assert "low_rank" in spec.keeps
    pruned = Network.from_bytes(applied.model).module
    modules = dict(pruned.named_modules())
    assert ranks.keys() & modules.keys()
    for thin, wide in (modules[path] for path in ranks if path in modules):
        assert thin.out_features == wide.in_features <= max(rank for (rank,) in ranks.values())


def test_heads_with_a_factorized_layer_stay_whole() -> None:
    network = with_low_rank(Network.create(ARCHITECTURES["vit"], seed=0), {"blocks.0.attention.query": [4]})
    reasons = [group.reason for group in head_groups(network.module)]
    assert reasons == ["query of blocks.0.attention is no plain linear layer", None]
