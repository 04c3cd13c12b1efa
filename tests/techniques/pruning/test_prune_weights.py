from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torch import nn

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord, Surgery
from tasks.evaluation.onnx_graph import read_graph_facts
from tasks.models.architecture import Network
from tasks.models.masking import masks_of, set_masks, with_masks
from tasks.models.onnx_export import to_onnx
from tasks.models.parametrizations import without_parametrizations
from tasks.techniques.factorization.surgery import split_layers
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.prune_weights import PruneWeights
from tasks.techniques.pruning.weight_masks import sparser_masks
from tasks.techniques.pruning.weight_scores import Evidence, WeightCriterion, weight_scores
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Applied, Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]

SHORT = Schedule(epochs=4, batch_size=14, learning_rate=1e-3, checkpoint_every=1)  # 3 steps an epoch
MOST = PruneWeights(sparsity=0.75, update_every=2, fine_tune=SHORT)
RECIPE = Architecture(
    factory="tasks.models.resnet:resnet",
    kwargs={"input_shape": [1, 8, 8], "num_outputs": 3, "width": 8, "blocks": [1, 1], "dropout": 0.2},
)
PATHS = [
    "stem.conv", "stages.0.0.conv1", "stages.0.0.conv2", "stages.1.0.conv1", "stages.1.0.conv2",
    "stages.1.0.shortcut.conv", "head",
]  # fmt: skip


class KilledError(Exception):
    """Stands for the end of the process."""


class MortalStore:
    """A checkpoint store whose process dies right after one of its writes."""

    def __init__(self, surviving_saves: int) -> None:
        self.data: bytes | None = None
        self._left = surviving_saves

    def save(self, data: bytes) -> None:
        self.data = data
        self._left -= 1
        if self._left == 0:
            raise KilledError

    def load(self) -> bytes | None:
        return self.data


def incoming() -> bytes:
    return Network.create(RECIPE, seed=0).to_bytes()


def plain_weights(model: bytes) -> dict[str, torch.Tensor]:
    module = without_parametrizations(Network.from_bytes(model).module)
    return {path: module.get_parameter(f"{path}.weight").detach() for path in PATHS}


@pytest.fixture(scope="module")
def pruned(make_context: MakeContext) -> tuple[Applied, list[EpochRecord]]:
    """Return what comes out of `MOST` when nothing is killed, and the history."""
    history: list[EpochRecord] = []
    return MOST.apply(incoming(), make_context(report=history.append)), history


def test_apply_reports_what_was_counted(pruned: tuple[Applied, list[EpochRecord]]) -> None:
    applied, history = pruned
    weights = plain_weights(applied.model)
    num_weights = 72 + 2 * 576 + 1152 + 2304 + 128 + 48
    assert sum(weight.numel() for weight in weights.values()) == num_weights
    num_zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert num_zeros == round(0.75 * num_weights)
    details = dict(applied.details)
    by_layer = str(details.pop("sparsity_by_layer"))
    assert by_layer == ", ".join(
        f"{path} {float((weight == 0).float().mean()):.1%}" for path, weight in weights.items()
    )
    assert "do not speed up dense kernels" in str(details.pop("note"))
    num_parameters = num_weights + 3 + 2 * (8 + 8 + 8 + 16 + 16 + 16)
    module = Network.from_bytes(applied.model).module
    zero_vectors = sum(int((p == 0).sum()) for name, p in module.named_parameters() if p.ndim == 1)
    assert details == {
        "sparsity": pytest.approx(0.75, abs=1e-4),
        "parameters": num_parameters,
        "parameters_nonzero": num_parameters - num_zeros - zero_vectors,
    }
    assert [record.step for record in history] == list(range(1, MOST.planned_epochs + 1))


def test_apply_gives_each_layer_its_share_when_the_scope_is_layer(make_context: MakeContext) -> None:
    applied = MOST.model_copy(update={"scope": "layer"}).apply(incoming(), make_context())
    for path, weight in plain_weights(applied.model).items():
        assert int((weight == 0).sum()) == round(0.75 * weight.numel()), path


def test_apply_leaves_ignored_layers_dense(make_context: MakeContext) -> None:
    spec = MOST.model_copy(update={"targets": ("st*",), "ignore": ("stem.*", "*.shortcut.*")})
    weights = plain_weights(spec.apply(incoming(), make_context()).model)
    dense = {"stem.conv", "stages.1.0.shortcut.conv", "head"}
    assert {path for path, weight in weights.items() if bool((weight != 0).all())} == dense


def test_apply_writes_nothing_of_the_hidden_weights_to_the_file(pruned: tuple[Applied, list[EpochRecord]]) -> None:
    module = Network.from_bytes(pruned[0].model).module
    for path, mask in masks_of(module).items():
        assert not module.get_parameter(f"{path}.parametrizations.weight.original")[~mask].any()


@pytest.mark.parametrize("criterion", ["gradient", "taylor", "hessian", "random"])
def test_apply_takes_every_criterion(criterion: str, make_context: MakeContext) -> None:
    one_epoch = SHORT.model_copy(update={"epochs": 1})
    spec = MOST.model_copy(update={"criterion": criterion, "score_rows": 8, "scope": "layer", "fine_tune": one_epoch})
    applied = spec.apply(incoming(), make_context())
    assert applied.details["sparsity"] == pytest.approx(0.75, abs=1e-3)


def test_mask_updates_follow_the_schedule_and_bring_no_weight_back(make_context: MakeContext) -> None:
    network = with_masks(Network.create(RECIPE, seed=0), PATHS)
    spec = PruneWeights(sparsity=0.8, initial_sparsity=0.2, begin=0.1, end=0.9, update_every=3, scope="layer")
    rows = make_context().load_split("train")
    update = spec._mask_updates(network.module, PATHS, Evidence(rows, label_loss("classification"), 8, 0))
    generator = torch.Generator().manual_seed(0)
    before = {path: mask.clone() for path, mask in masks_of(network.module).items()}
    for step in range(20):
        update(step, 20)
        share = spec.schedule.sparsity_at(max(2, step - (step - 2) % 3) if step < 18 else 18, 20) if step >= 2 else 0.0
        for path, mask in masks_of(network.module).items():
            assert int((~mask).sum()) == round(share * mask.numel()), (step, path)
            assert not bool((mask & ~before[path]).any())
            before[path] = mask.clone()
            with torch.no_grad():  # as training would, but wilder: hidden weights grow most
                original = network.module.get_parameter(f"{path}.parametrizations.weight.original")
                original.add_(torch.randn(original.shape, generator=generator) * (1 + 100 * ~mask))


@pytest.mark.parametrize("surviving_saves", [1, 2, 4])
def test_apply_ends_with_the_same_weights_and_history_when_it_was_killed(
    surviving_saves: int, make_context: MakeContext, pruned: tuple[Applied, list[EpochRecord]]
) -> None:
    expected, full = pruned
    store = MortalStore(surviving_saves)
    with pytest.raises(KilledError):
        MOST.apply(incoming(), make_context(checkpoints=store))
    history: list[EpochRecord] = []
    resumed = MOST.apply(incoming(), make_context(checkpoints=store, report=history.append))
    assert resumed == expected
    assert history == full


def test_apply_ends_with_the_same_weights_when_gradients_are_measured_and_it_was_killed(
    make_context: MakeContext,
) -> None:
    spec = MOST.model_copy(update={"criterion": "taylor", "score_rows": 16, "scope": "layer", "begin": 0.3})
    expected = spec.apply(incoming(), make_context())
    store = MortalStore(2)
    with pytest.raises(KilledError):
        spec.apply(incoming(), make_context(checkpoints=store))
    assert spec.apply(incoming(), make_context(checkpoints=store)) == expected


def test_apply_learns_again_what_the_network_knew(
    make_context: MakeContext, draw_images: Callable[[int, int], Arrays]
) -> None:
    images = draw_images(42, 5)
    network = Network.create(RECIPE, seed=0)
    fit(network.module, images, label_loss("classification"), Schedule(epochs=10, batch_size=8), make_context())
    spec = PruneWeights(
        sparsity=0.8, update_every=4, teacher_weight=0.5, fine_tune=Schedule(epochs=6, batch_size=8, learning_rate=2e-3)
    )
    applied = spec.apply(network.to_bytes(), make_context(load_baseline=network.to_bytes))
    outputs = outputs_of(Network.from_bytes(applied.model).module, torch.from_numpy(images.x), 64)
    assert (outputs.argmax(1).numpy() == images.y).mean() > 0.95


def test_apply_learns_regression_on_a_table(make_context: MakeContext) -> None:
    x = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    split = Arrays(x, x.sum(axis=1))
    kwargs = {"input_shape": [5], "num_outputs": 1, "hidden": [16, 16]}
    network = Network.create(Architecture(factory="tasks.models.mlp:mlp", kwargs=kwargs), seed=0)
    context = make_context(task="regression", input_shape=(5,), num_outputs=1, load_split=lambda name: split)
    applied = MOST.model_copy(update={"criterion": "hessian"}).apply(network.to_bytes(), context)
    assert applied.details["sparsity"] == pytest.approx(0.75, abs=0.01)
    assert Network.from_bytes(applied.model).module(torch.from_numpy(x)).shape == (64, 1)


def test_apply_shrinks_the_zipped_file_and_not_the_file_or_the_work(
    pruned: tuple[Applied, list[EpochRecord]],
) -> None:
    files = [to_onnx(Network.from_bytes(model), (1, 8, 8), "float32") for model in (incoming(), pruned[0].model)]
    dense, sparse = (read_graph_facts(each, (1, 8, 8)) for each in files)
    assert dense.zero_share < 0.01
    assert sparse.zero_share == pytest.approx(0.75, abs=1e-3)
    assert sparse.size_zip_bytes < 0.45 * dense.size_zip_bytes
    assert sparse.size_bytes >= dense.size_bytes
    assert sparse.flops == dense.flops


def test_apply_keeps_older_zeros_and_split_layers(make_context: MakeContext) -> None:
    ranks = {"stages.1.0.conv2": [4, 6]}
    given = Network.create(RECIPE, seed=0)
    torch.manual_seed(0)  # the thinner layers are drawn
    split = given.with_surgery(
        Surgery(
            function="tasks.techniques.factorization.surgery:split_layers",
            arguments={"form": "tucker2", "ranks": ranks},
        ),
        split_layers(given.module, "tucker2", ranks),
    )
    masked = with_masks(split, ["head"])
    older = torch.zeros(3, 16, dtype=torch.bool)
    older[:, ::5] = True
    set_masks(masked.module, {"head": older})
    half = MOST.model_copy(update={"sparsity": 0.5})  # more could take all weights of the small core
    applied = half.apply(masked.to_bytes(), make_context())
    result = Network.from_bytes(applied.model)
    assert not bool((masks_of(result.module)["head"] & ~older).any())
    assert result.architecture.surgeries[:2] == masked.architecture.surgeries
    thin = [layer.weight.shape for layer in result.module.get_submodule("stages.1.0.conv2").children()]
    assert thin == [layer.weight.shape for layer in masked.module.get_submodule("stages.1.0.conv2").children()]


def test_apply_refuses_what_changes_nothing_or_cuts_the_network(
    make_context: MakeContext, pruned: tuple[Applied, list[EpochRecord]]
) -> None:
    with pytest.raises(TechniqueError, match=r"75\.0% of the weights are zero already, sparsity=0\.6"):
        MOST.model_copy(update={"sparsity": 0.6}).apply(pruned[0].model, make_context())
    with pytest.raises(TechniqueError, match=r"'head' loses all its 48 weights.*lower sparsity"):
        PruneWeights(sparsity=0.99, targets=("head",), fine_tune=SHORT).apply(incoming(), make_context())
    with pytest.raises(TechniqueError, match=r"targets: the glob 'tail' matches no layer"):
        PruneWeights(targets=("tail",)).apply(incoming(), make_context())


def test_apply_warns_when_the_sparsity_is_beyond_practice(make_context: MakeContext) -> None:
    spec = MOST.model_copy(update={"sparsity": 0.92, "targets": ("stages.*",)})
    assert "above 90 %" in str(spec.apply(incoming(), make_context()).details["warning"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"begin": 0.8, "end": 0.5}, r"begin=0\.8 must not exceed end=0\.5"),
        ({"initial_sparsity": 0.9, "sparsity": 0.5}, r"initial_sparsity=0\.9 sparsity=0\.5"),
        ({"sparsity": 1.0}, "less than 1"),
    ],
)
def test_prune_weights_rejects_fields_that_do_not_fit(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PruneWeights.model_validate(fields)


def test_zeros_stay_where_they_are_in_the_int8_model(
    make_context: MakeContext,
    draw_images: Callable[[int, int], Arrays],
    pruned: tuple[Applied, list[EpochRecord]],
) -> None:
    from tasks.techniques.quantization.quantize_static import QuantizeStatic

    context = make_context(load_split=lambda name: draw_images(120, 1))
    network = Network.from_bytes(pruned[0].model)
    graph = onnx.load_from_string(
        QuantizeStatic(allow_slower=True).apply(to_onnx(network, (1, 8, 8), "float32"), context).model
    ).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored = {node.output[0]: constants.get(node.input[0]) for node in graph.node if node.op_type == "DequantizeLinear"}
    found = {node.name: stored[node.input[1]] for node in graph.node if node.op_type in ("Conv", "Gemm")}
    for path, mask in masks_of(network.module).items():
        integers = found[path]
        assert integers is not None
        assert integers.dtype == np.int8
        assert not integers[~mask.numpy()].any(), path


def accuracy_at(trained: bytes, data: Arrays, criterion: WeightCriterion, seed: int) -> float:
    """Return the accuracy of a trained network, three quarters of whose weights were set to zero at once."""
    network = Network.from_bytes(trained)
    paths = [path for path, layer in network.module.named_modules() if isinstance(layer, nn.Linear)]
    masked = with_masks(network, paths).module
    scores = weight_scores(masked, paths, criterion, Evidence(data, label_loss("classification"), 256, seed))
    set_masks(masked, sparser_masks(scores, masks_of(masked), 0.75, "global"))
    outputs = outputs_of(masked, torch.from_numpy(data.x), 1024)
    return float((outputs.argmax(1).numpy() == data.y).mean())


def test_magnitude_and_taylor_keep_more_accuracy_than_chance_without_fine_tuning(make_context: MakeContext) -> None:
    digits = load_digits()
    data = Arrays((digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64))
    kwargs = {"input_shape": [1, 8, 8], "num_outputs": 10, "hidden": [64, 32]}
    gains: dict[WeightCriterion, list[float]] = {"magnitude": [], "taylor": [], "hessian": []}
    for seed in range(3):
        network = Network.create(Architecture(factory="tasks.models.mlp:mlp", kwargs=kwargs), seed=seed)
        schedule = Schedule(epochs=6, batch_size=64, learning_rate=1e-2)
        fit(network.module, data, label_loss("classification"), schedule, make_context(seed=seed))
        trained = network.to_bytes()
        by_chance = np.mean([accuracy_at(trained, data, "random", seed=draw) for draw in range(5)])
        for criterion, gained in gains.items():
            gained.append(accuracy_at(trained, data, criterion, seed) - float(by_chance))
    assert {criterion: min(gained) > 0.1 for criterion, gained in gains.items()} == dict.fromkeys(gains, True), gains
