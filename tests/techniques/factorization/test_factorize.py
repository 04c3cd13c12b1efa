from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.models.onnx_export import to_onnx
from tasks.techniques.factorization.decompositions import ConvolutionForm, LinearSvd, Passes, decomposition_of
from tasks.techniques.factorization.factorize import Factorize
from tasks.techniques.factorization.ranks import rank_options
from tasks.techniques.factorization.sensitivity import count_passes, sensitivities
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import label_loss
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]
SHORT = Schedule(epochs=2, batch_size=16, learning_rate=1e-3)
TINY_STEPS = Schedule(epochs=1, batch_size=42, learning_rate=1e-12, weight_decay=0)


@pytest.fixture(scope="module")
def trained(images: Arrays, make_context: MakeContext) -> bytes:
    kwargs = {"input_shape": [1, 8, 8], "num_outputs": 3, "width": 8, "blocks": [1, 1]}
    network = Network.create(Architecture(factory="tasks.models.resnet:resnet", kwargs=kwargs), seed=0)
    fit(network.module, images, label_loss("classification"), Schedule(epochs=10, batch_size=8), make_context())
    return network.to_bytes()


def spec(**fields: Any) -> Factorize:
    return Factorize.model_validate({"fine_tune": SHORT.model_dump()} | fields)


@pytest.mark.parametrize("convolutions", ["tucker2", "spatial"])
@pytest.mark.parametrize(
    "rule",
    [
        {"energy": 0.8},
        {"rank_by": "parameters", "reduction": 0.4},
        {"rank_by": "flops", "reduction": 0.4},
        {"rank_by": "fixed", "ranks": {"stages.1.0.conv?": 4}},
    ],
    ids=lambda rule: rule.get("rank_by", "energy"),
)
def test_factorize_gives_a_smaller_network_that_reloads_exports_and_trains_on(
    trained: bytes, make_context: MakeContext, images: Arrays, convolutions: str, rule: dict[str, Any]
) -> None:
    applied = spec(convolutions=convolutions, round_to=2, **rule).apply(trained, make_context())
    assert applied.details["parameters_after"] < applied.details["parameters_before"]
    network = Network.from_bytes(applied.model)
    assert sum(one.numel() for one in network.module.parameters()) == applied.details["parameters_after"]
    rows = torch.from_numpy(images.x)
    again = Network.from_bytes(network.to_bytes())
    assert torch.equal(outputs_of(again.module, rows, 16), outputs_of(network.module, rows, 16))
    assert to_onnx(network, (1, 8, 8), "float32")
    fit(network.module, images, label_loss("classification"), SHORT, make_context())


def test_factorize_saves_the_flops_that_it_was_asked_for(trained: bytes, make_context: MakeContext) -> None:
    applied = spec(rank_by="flops", reduction=0.5, round_to=1, fine_tune=TINY_STEPS.model_dump()).apply(
        trained, make_context()
    )
    example = torch.zeros(1, 1, 8, 8)
    before, after = (macs(Network.from_bytes(model).module, example) for model in (trained, applied.model))
    assert 0.3 * before < after <= 0.5 * before


def macs(module: nn.Module, example: torch.Tensor) -> int:
    """Multiply-adds as torch counts them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(example)
    return int(counter.get_total_flops()) // 2


def test_count_passes_counts_pixels_and_tokens() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3, stride=(2, 4), padding=1), nn.Flatten(2), nn.Linear(8, 5))
    assert count_passes(module, ["0", "2"], torch.zeros(2, 1, 8, 8)) == {"0": Passes(64, 32, 8), "2": Passes(4, 4, 4)}


@pytest.mark.parametrize("form", ["tucker2", "spatial"])
@pytest.mark.parametrize("layer", [nn.Conv2d(6, 10, 3, stride=2, padding=1), nn.Conv2d(6, 10, 1, stride=2)])
def test_cost_is_what_torch_counts(layer: nn.Conv2d, form: ConvolutionForm) -> None:
    decomposition = decomposition_of(layer, form)
    assert decomposition is not None
    ranks = tuple(max(1, most // 2) for most in decomposition.max_ranks)
    rows = torch.zeros(1, 6, 8, 12)
    passes = count_passes(nn.Sequential(layer), ["0"], rows)["0"]
    assert decomposition.cost(ranks, passes) == macs(decomposition.layers(ranks), rows)


def test_sensitivity_is_higher_when_the_answers_hang_more_on_the_layer(
    make_context: MakeContext, images: Arrays
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    rows = torch.from_numpy(images.x)
    own_answers = Arrays(images.x, outputs_of(module, rows, 16).argmax(1).numpy())

    def measured() -> float:
        decomposition = LinearSvd(module[1])
        options = {"1": rank_options(decomposition, Passes(), 4)}
        context = make_context(load_split=lambda _: own_answers)
        return sensitivities(module, {"1": decomposition}, options, context)["1"]

    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    calm = measured()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    module[3].weight.data *= 10
    assert measured() > 2 * calm > 0


def test_factorize_refuses_a_rank_that_saves_nothing(trained: bytes, make_context: MakeContext) -> None:
    with pytest.raises(
        TechniqueError, match=r"rank 8 of layer 'stages.0.0.conv1' saves nothing.*largest that saves is \d"
    ):
        spec(rank_by="fixed", ranks={"stages.0.0.conv1": 8}).apply(trained, make_context())


def test_factorize_refuses_a_reduction_that_cannot_be_reached(trained: bytes, make_context: MakeContext) -> None:
    with pytest.raises(TechniqueError, match="lowest ranks save"):
        spec(rank_by="parameters", reduction=0.999).apply(trained, make_context())


def test_factorize_refuses_when_no_layer_would_shrink(trained: bytes, make_context: MakeContext) -> None:
    with pytest.raises(TechniqueError, match=r"no layer of .* becomes smaller"):
        spec(energy=0.99999).apply(trained, make_context())


@pytest.mark.parametrize("field", ["targets", "ignore"])
def test_factorize_names_a_glob_that_matches_nothing(trained: bytes, make_context: MakeContext, field: str) -> None:
    with pytest.raises(TechniqueError, match=f"{field}: the glob 'nothing.*' matches no layer"):
        spec(**{field: ["nothing.*"]}).apply(trained, make_context())


@pytest.mark.parametrize("fields", [{"rank_by": "fixed"}, {"ranks": {"a": 3}}, {"rank_by": "fixed", "ranks": {"a": 0}}])
def test_factorize_refuses_ranks_that_do_not_fit_the_rule(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="rank"):
        Factorize.model_validate(fields)


def test_factorize_again_keeps_the_ranks_low(trained: bytes, make_context: MakeContext) -> None:
    once = spec(rank_by="parameters", reduction=0.3, round_to=1).apply(trained, make_context())
    twice = spec(rank_by="parameters", reduction=0.3, round_to=1).apply(once.model, make_context())
    assert twice.details["parameters_after"] < once.details["parameters_after"]
    assert (
        "first.first" in str(twice.details["ranks"]) or "core" in str(twice.details["ranks"]) or twice.details["ranks"]
    )


def test_factorize_asks_the_baseline_only_when_its_answers_weigh(trained: bytes, make_context: MakeContext) -> None:
    asked: list[bytes] = []

    def load_baseline() -> bytes:
        asked.append(trained)
        return trained

    alone = spec(energy=0.8).apply(trained, make_context(load_baseline=load_baseline)).model
    assert not asked
    assert spec(energy=0.8, teacher_weight=0.5).apply(trained, make_context(load_baseline=load_baseline)).model != alone
    assert asked
