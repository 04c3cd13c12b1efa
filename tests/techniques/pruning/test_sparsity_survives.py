"""Every technique that says it keeps sparsity is given a masked network here. A new one is tested without an edit."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.contracts.data import SplitName
from tasks.contracts.model import Architecture
from tasks.evaluation.onnx_graph import load_graph
from tasks.evaluation.onnx_zeros import zero_share
from tasks.models.architecture import Network
from tasks.models.masking import masks_of, set_masks, with_masks
from tasks.models.onnx_export import to_onnx
from tasks.models.parametrizations import without_parametrizations
from tasks.techniques import TECHNIQUES
from tasks.techniques.loss import label_loss
from tasks.techniques.pruning.sparsity_facts import MASKABLE
from tasks.techniques.pruning.weight_masks import sparser_masks
from tasks.techniques.quantization.quantize_static import QuantizeStatic
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext, TechniqueSpec
from tasks.techniques.training import fit

SPARSITY = 0.5
SETTINGS: dict[str, dict[str, Any]] = {"prune_weights": {"sparsity": 0.9}, "prune_two_four": {"n": 1}}
"""What a stage needs so that it has anything to do on such a network."""
INCOMING = {"prune_heads": "vit", "share_int8_weights": "int8"}
"""What a stage needs that does not take the residual network, as torch or ONNX."""
SLOW = {"quantize_auto", "quantize_aware"}
RECIPES = {
    "resnet": {"width": 16, "blocks": [1, 1]},
    "vit": {"patch": 4, "width": 8, "depth": 1, "heads": 4},
}


def following(spec: type[TechniqueSpec]) -> TechniqueSpec | None:
    """Return a spec of one epoch that goes on with the incoming model; None if the technique never does."""
    fields: dict[str, Any] = dict(next(iter(spec.model_json_schema().get("examples", [])), {}))
    fields.pop("student", None)
    fields |= SETTINGS.get(str(spec.model_fields["kind"].default), {})
    for name, field in spec.model_fields.items():
        if field.annotation is Schedule:
            fields[name] = Schedule(epochs=1, batch_size=16)
        elif name == "allow_slower":
            fields[name] = True
    try:
        technique = spec.model_validate(fields)
    except ValidationError:
        return None
    return None if technique.starts_over else technique


FOLLOWERS = [technique for spec in TECHNIQUES if "sparsity" in spec.keeps and (technique := following(spec))]


@pytest.fixture(scope="module")
def masked(images: Arrays, make_context: Callable[..., StageContext]) -> Callable[[str], Network]:
    """Return a function that makes a network which has learned the images; half of each inner layer is zero."""

    @functools.cache
    def make(name: str) -> Network:
        kwargs = {"input_shape": [1, 8, 8], "num_outputs": 3} | RECIPES[name]
        network = Network.create(Architecture(factory=f"tasks.models.{name}:{name}", kwargs=kwargs), seed=0)
        fit(network.module, images, label_loss("classification"), Schedule(epochs=6, batch_size=8), make_context())
        paths = [path for path, layer in network.module.named_modules() if isinstance(layer, MASKABLE)][1:-1]
        scores = {path: network.module.get_parameter(f"{path}.weight").detach().abs() for path in paths}
        network = with_masks(network, paths)
        set_masks(network.module, sparser_masks(scores, masks_of(network.module), SPARSITY, "layer"))
        return network

    return make


@pytest.fixture(scope="module")
def exported(masked: Callable[[str], Network]) -> bytes:
    return to_onnx(masked("resnet"), (1, 8, 8), "float32")


def assert_zeros_in_torch(result: bytes, masked: Network) -> None:
    """Check that masks are there and hold, and that none has lost a zero where its layer has kept its shape."""
    module = Network.from_bytes(result).module
    found = masks_of(module)
    plain = without_parametrizations(module)
    layers = dict(plain.named_modules())
    remaining = {path: mask for path, mask in masks_of(masked.module).items() if path in layers}
    assert remaining
    for path, mask in remaining.items():
        weight = plain.get_parameter(f"{path}.weight")
        assert not weight[~found[path]].any(), path
        if mask.shape == weight.shape:
            assert not weight[~mask].any(), path
        else:
            assert not found[path].all(), path


def test_the_techniques_that_follow_are_those_of_every_family() -> None:
    kinds = {technique.kind for technique in FOLLOWERS}
    assert kinds >= {"distill_response", "prune_weights", "quantize_static"}


@pytest.mark.parametrize(
    "technique",
    [pytest.param(each, id=each.kind, marks=[pytest.mark.slow] * (each.kind in SLOW)) for each in FOLLOWERS],
)
def test_zeros_survive_every_technique_that_says_so(
    technique: TechniqueSpec,
    masked: Callable[[str], Network],
    exported: bytes,
    make_context: Callable[..., StageContext],
    draw_images: Callable[[int, int], Arrays],
) -> None:
    def load_split(name: SplitName) -> Arrays:
        return draw_images({"train": 48, "calibration": 120}.get(name, 30), len(name))

    needs = INCOMING.get(technique.kind, "resnet")
    given = masked("vit" if needs == "vit" else "resnet")
    context = make_context(load_split=load_split, load_baseline=given.to_bytes)
    incoming = given.to_bytes() if technique.takes == "torch" else exported
    if needs == "int8":
        incoming = QuantizeStatic(allow_slower=True).apply(exported, context).model
    model = technique.apply(incoming, context).model
    if technique.gives == "torch":
        assert_zeros_in_torch(model, given)
    else:
        assert zero_share(load_graph(model)) >= zero_share(load_graph(exported)) > 0.4
