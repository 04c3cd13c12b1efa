from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture, EpochRecord
from tasks.evaluation.onnx_graph import load_graph, read_graph_facts
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network
from tasks.models.masking import masks_of, set_masks, with_masks
from tasks.models.onnx_codebook import packed_weights, unpack_codebooks
from tasks.models.onnx_export import to_onnx
from tasks.models.sharing import codebooks_of
from tasks.stages.exporting import export_network
from tasks.techniques.distillation.distill_response import DistillResponse
from tasks.techniques.inference import outputs_of
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.schedule import Schedule
from tasks.techniques.sharing.int8_weights import int8_weights
from tasks.techniques.sharing.share_weights import ShareWeights
from tasks.techniques.technique import StageContext

BRIEF = Schedule(epochs=1, batch_size=16, learning_rate=1e-3)
SHAPE = (1, 8, 8)
Weights = Callable[[nn.Module], dict[str, np.ndarray]]


@pytest.fixture(scope="module", params=[True, False], ids=["scaled", "plain"])
def per_channel_scale(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def exported(per_channel_scale, trained, load_split, make_context) -> bytes:
    """Return the trained network with 16 shared values in each layer, as ONNX."""
    technique = ShareWeights(per_channel_scale=per_channel_scale, fine_tune=BRIEF)
    context = make_context(load_split=load_split)
    applied = technique.apply(trained.to_bytes(), context)
    return export_network(applied.model, context).model  # proves that both answer alike


def accuracy(module: nn.Module, context: StageContext) -> float:
    split = context.load_split("validation")
    return float((outputs_of(module, torch.from_numpy(split.x), 64).argmax(dim=1).numpy() == split.y).mean())


@pytest.mark.parametrize("groups", [1, 4])
def test_apply_leaves_each_group_as_many_values_as_centroids(trained, context, weights_of, groups, per_channel_scale):
    technique = ShareWeights(num_centroids=5, groups=groups, per_channel_scale=per_channel_scale, fine_tune=BRIEF)
    module = Network.from_bytes(technique.apply(trained.to_bytes(), context).model).module
    assert len(weights_of(module)) == 5  # the stem has 144 weights, the head 96
    for path, weight in weights_of(module).items():
        book = codebooks_of(module)[path]
        if per_channel_scale:
            weight = weight / book.scales_O.reshape(-1, *[1] * (weight.ndim - 1))
        for group in range(min(groups, len(weight))):
            values = np.unique(weight[book.groups_O == group].round(5))
            assert len(values) <= 5


def test_apply_is_exact_when_there_are_as_many_centroids_as_distinct_values(context, weights_of):
    torch.manual_seed(0)
    network = Network.create(
        Architecture(factory="tasks.models.mlp:mlp", kwargs={"input_shape": [64], "num_outputs": 3}), seed=0
    )
    values = torch.randn(200)
    with torch.no_grad():
        for parameter in network.module.parameters():
            if parameter.ndim == 2:
                parameter.copy_(values[torch.randint(0, 200, parameter.shape)])
    still = Schedule(epochs=1, batch_size=16, learning_rate=1e-30, weight_decay=0.0)
    technique = ShareWeights(num_centroids=200, per_channel_scale=False, min_weights=2, fine_tune=still)
    flat = replace(context, load_split=lambda name: replace(s := context.load_split(name), x=s.x.reshape(-1, 64)))
    applied = technique.apply(network.to_bytes(), flat)
    shared = weights_of(Network.from_bytes(applied.model).module)
    assert applied.details["relative_error_of_clustering"] == 0
    assert len(shared) == applied.details["layers_shared"] > 1
    for path, weight in shared.items():
        np.testing.assert_array_equal(weight, network.module.get_submodule(path).weight.detach())


@pytest.mark.parametrize(("num_centroids", "bound"), [(16, 0.97), (4, 0.9)])
def test_apply_keeps_the_accuracy_after_training(trained, context, num_centroids, bound):
    technique = ShareWeights(num_centroids=num_centroids, fine_tune=Schedule(epochs=5, batch_size=16))
    shared = Network.from_bytes(technique.apply(trained.to_bytes(), context).model)
    assert accuracy(trained.module, context) >= 0.97
    assert accuracy(shared.module, context) >= bound


def test_training_makes_up_for_what_clustering_loses(trained, context):
    still = Schedule(epochs=1, batch_size=16, learning_rate=1e-30)
    losses = {}
    for name, schedule in {"clustered": still, "trained": Schedule(epochs=5, batch_size=16)}.items():
        model = ShareWeights(num_centroids=4, fine_tune=schedule).apply(trained.to_bytes(), context).model
        split = context.load_split("validation")
        outputs = outputs_of(Network.from_bytes(model).module, torch.from_numpy(split.x), 64)
        losses[name] = float(nn.functional.cross_entropy(outputs, torch.from_numpy(split.y)))
    assert losses["trained"] < 0.8 * losses["clustered"]


def test_exported_model_is_small_and_runs_as_the_dense_one(exported, context, tmp_path):
    dense = unpack_codebooks(load_graph(exported)).SerializeToString()
    x = context.load_split("validation").x
    np.testing.assert_allclose(run_rows(make_session(exported), x), run_rows(make_session(dense), x), atol=1e-5)
    before, after = (read_graph_facts(each, SHAPE) for each in (dense, exported))
    assert (after.num_parameters, after.flops) == (before.num_parameters, before.flops)
    assert after.size_bytes < before.size_bytes / 5
    operators = []
    for model in (dense, exported):
        make_session(model, optimized_model=tmp_path / "optimised.onnx")
        operators.append([node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node])
    assert operators[0] == operators[1]
    assert "Gather" not in operators[1]


def test_batch_norm_folded_into_the_weights_leaves_one_codebook_for_each_layer(exported):
    packed = packed_weights(load_graph(exported))
    assert [weight.codebook.values_GK.shape for weight in packed] == [(1, 16)] * 5
    assert all(weight.codebook.scales_O is not None for weight in packed)


def test_static_quantisation_keeps_few_values_and_their_short_form(exported, per_channel_scale, context):
    applied = QuantizeStatic(allow_slower=True).apply(exported, context)
    graph = load_graph(applied.model)
    packed = packed_weights(graph)
    assert applied.details["int8_coverage"] == 1.0
    assert applied.details["layers_in_codebooks"] == len(packed)
    shared = {weight.codebook.shape for weight in packed_weights(load_graph(exported))}
    weights = {each.values.shape: each.values for each in int8_weights(unpack_codebooks(graph))}
    for shape in shared:  # which differ from layer to layer, or have equal bounds
        assert max(len(np.unique(channel)) for channel in weights[shape]) <= 16
    if per_channel_scale:
        assert [weight.codebook.values_GK.shape for weight in packed] == [(1, 16)] * 5
        assert "warning" not in applied.details
        integers = [np.abs(weight.codebook.decoded().astype(int)) for weight in packed]
        for weight in packed_weights(load_graph(exported)):  # none was changed by the rounding
            steps = np.abs(127 * weight.codebook.unscaled())
            assert any(each.shape == steps.shape and np.allclose(each, steps, atol=1e-3) for each in integers)
    else:
        assert "per_channel_scale" in applied.details["warning"]


def test_masked_weights_stay_zero_through_clustering_and_training(trained, context):
    network = with_masks(Network.from_bytes(trained.to_bytes()), ["stages.1.0.conv2"])
    layer = network.module.get_submodule("stages.1.0.conv2")
    kept = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) > 0.7
    set_masks(network.module, {"stages.1.0.conv2": kept})
    technique = ShareWeights(num_centroids=8, initialisation="kmeans++", targets=("stages.1.0.conv2",), fine_tune=BRIEF)
    for scaled in (True, False):
        context.checkpoints.data = None
        applied = technique.model_copy(update={"per_channel_scale": scaled}).apply(network.to_bytes(), context)
        module = Network.from_bytes(applied.model).module
        book = codebooks_of(module)["stages.1.0.conv2"]
        assert (book.decoded()[~kept.numpy()] == 0).all()  # without the mask's help
        assert torch.equal(masks_of(module)["stages.1.0.conv2"], kept)
        weight = module.get_submodule("stages.1.0.conv2").weight
        assert (weight[~kept] == 0).all()
        assert (weight[kept] != 0).float().mean() > 0.6
        graph = load_graph(to_onnx(Network.from_bytes(applied.model), SHAPE, "float32"))
        (packed,) = packed_weights(graph)
        assert (packed.codebook.decoded()[~kept.numpy()] == 0).all()


def test_distillation_afterwards_trains_the_same_codebooks(trained, context, weights_of):
    shared = ShareWeights(num_centroids=4, per_channel_scale=False, fine_tune=BRIEF).apply(trained.to_bytes(), context)
    context.checkpoints.data = None
    distilled = DistillResponse(schedule=BRIEF).apply(shared.model, context)
    before, after = (weights_of(Network.from_bytes(each.model).module) for each in (shared, distilled))
    for path, weight in after.items():
        assert len(np.unique(weight)) <= 4
        assert not np.array_equal(weight, before[path])


def test_apply_goes_on_from_its_checkpoint_to_the_very_same_model(trained, context, make_context):
    technique = ShareWeights(
        teacher_weight=0.5, fine_tune=BRIEF.model_copy(update={"epochs": 3, "checkpoint_every": 1})
    )
    whole = technique.apply(trained.to_bytes(), context).model

    class StoppedError(Exception):
        pass

    def stop_after_two(record: EpochRecord) -> None:
        if record.step == 3:
            raise StoppedError

    broken = make_context(load_split=context.load_split, load_baseline=trained.to_bytes, report=stop_after_two)
    with pytest.raises(StoppedError):
        technique.apply(trained.to_bytes(), broken)
    records: list[EpochRecord] = []
    resumed = replace(broken, report=records.append)
    assert technique.apply(trained.to_bytes(), resumed).model == whole
    assert [record.step for record in records] == [1, 2, 3]


def test_targets_ignore_and_min_weights_choose_the_layers(trained, context, weights_of):
    technique = ShareWeights(targets=("stages.*",), ignore=("*.shortcut.*",), min_weights=3000, fine_tune=BRIEF)
    module = Network.from_bytes(technique.apply(trained.to_bytes(), context).model).module
    assert list(weights_of(module)) == ["stages.1.0.conv1", "stages.1.0.conv2"]


def test_apply_names_the_sizes_when_no_layer_is_large_enough(trained, context):
    with pytest.raises(TechniqueError, match=r"min_weights=1000000 leaves no layer to share among stem\.conv 144"):
        ShareWeights(min_weights=1_000_000).apply(trained.to_bytes(), context)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight


def test_apply_refuses_a_tensor_that_serves_two_layers():
    with pytest.raises(TechniqueError, match=r"first\.weight and second\.weight are one tensor"):
        ShareWeights()._layers(Tied())


def test_scales_need_room_for_the_pinned_centroids():
    with pytest.raises(ValidationError, match="at least 3"):
        ShareWeights(num_centroids=2)
    assert ShareWeights(num_centroids=2, per_channel_scale=False).num_centroids == 2
