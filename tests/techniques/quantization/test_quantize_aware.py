from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError
from sklearn.datasets import load_digits

from tasks.contracts.model import Architecture, EpochRecord
from tasks.evaluation.runtime_session import make_session, run_rows
from tasks.models.architecture import Network
from tasks.models.masking import masks_of, with_masks
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import label_loss
from tasks.techniques.quantization.fake_quantize import ActivationQuantizer, WeightQuantizer
from tasks.techniques.quantization.quantize_aware import QuantizeAware
from tasks.techniques.quantization.simulation import Simulation, simulate
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext
from tasks.techniques.training import fit

MakeContext = Callable[..., StageContext]
SHORT = Schedule(epochs=3, batch_size=16, learning_rate=5e-4, checkpoint_every=1)


def residual(input_shape: tuple[int, ...], num_outputs: int, width: int) -> Network:
    kwargs = {"input_shape": list(input_shape), "num_outputs": num_outputs, "width": width, "blocks": [1, 1]}
    return Network.create(Architecture(factory="tasks.models.resnet:resnet", kwargs=kwargs), seed=0)


@pytest.fixture(scope="module")
def trained(images: Arrays, make_context: MakeContext) -> Network:
    network = residual((1, 8, 8), 3, 8)
    fit(network.module, images, label_loss("classification"), Schedule(epochs=10, batch_size=8), make_context())
    return network


def interrupted(record: EpochRecord) -> None:
    if record.step == 2:
        raise KeyboardInterrupt


def test_apply_trains_exports_to_int8_and_continues_identically_when_interrupted(trained, make_context, draw_images):
    spec = QuantizeAware(schedule=SHORT, allow_slower=True)
    records: list[EpochRecord] = []
    members = {"load_baseline": trained.to_bytes, "load_split": lambda name: draw_images(240, len(name))}
    applied = spec.apply(trained.to_bytes(), make_context(report=records.append, **members))
    assert [record.step for record in records] == [1, 2, 3]
    facts = applied.details
    assert (facts["int8_coverage"], facts["int8_layers"], facts["batch_norms_folded"]) == (1.0, 7, 6)
    assert facts["parity_agreement"] >= 0.995
    assert facts["parity_max_relative_difference"] < 0.03
    assert facts["teacher_accuracy"] > 0.95
    fresh = draw_images(300, 77)
    answers = run_rows(make_session(applied.model), fresh.x)
    original = outputs_of(trained.module, torch.from_numpy(fresh.x), 300).numpy()
    assert (answers.argmax(axis=1) == fresh.y).mean() >= (original.argmax(axis=1) == fresh.y).mean() - 0.01

    broken = make_context(report=interrupted, **members)
    with pytest.raises(KeyboardInterrupt):
        spec.apply(trained.to_bytes(), broken)
    resumed = make_context(checkpoints=broken.checkpoints, **members)
    assert broken.checkpoints.load() is not None
    assert spec.apply(trained.to_bytes(), resumed).model == applied.model


def test_apply_keeps_masked_weights_at_zero(trained, make_context, draw_images):
    network = with_masks(Network.from_bytes(trained.to_bytes()), ["stages.1.0.conv2", "head"])
    with torch.no_grad():
        for path, mask in masks_of(network.module).items():
            weight = network.module.get_submodule(path).weight
            mask.copy_(weight.abs() > weight.abs().median())
    context = make_context(load_split=lambda name: draw_images(120, len(name)))
    spec = QuantizeAware(teacher_weight=0.0, weight_bits=4, schedule=SHORT, allow_slower=True)
    graph = onnx.load_from_string(spec.apply(network.to_bytes(), context).model).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type in ("DequantizeLinear", "Cast")}
    layers = {node.name: node for node in graph.node if node.name}
    for path, mask in masks_of(network.module).items():
        codes = constants[sources[sources[layers[path].input[1]]]].astype(np.int8)
        assert not codes[~mask.numpy()].any()
        assert codes[mask.numpy()].any()


@pytest.mark.parametrize(("step", "following"), [(0, True), (4, True), (5, False), (9, False)])
def test_ranges_and_scales_follow_until_they_freeze(trained, images, step, following):
    simulation = four_bits(trained, images, bits=8)
    simulation.observe_until(0.5)(step, 10)
    modules = list(simulation.module.modules())
    assert {m.observer for m in modules if isinstance(m, ActivationQuantizer)} == {"average" if following else "off"}
    assert {m.observing for m in modules if isinstance(m, WeightQuantizer)} == {following}


def four_bits(network: Network, rows: Arrays, *, bits: int = 4, learn_scales: bool = False) -> Simulation:
    """Return the network in 4 bits, calibrated and not trained."""
    simulation = simulate(
        network.module,
        torch.from_numpy(rows.x[:2]),
        targets=("*",),
        ignore=(),
        weight_bits=bits,
        learn_scales=learn_scales,
    )
    simulation.calibrate(rows.x[:256])
    return simulation


@pytest.mark.slow
def test_training_beats_static_quantization_at_four_bits_on_digits(make_context):
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = (digits.images / 16).astype(np.float32)[order, None], digits.target[order]
    train, held_out = Arrays(x[:1200], y[:1200]), Arrays(x[1200:], y[1200:])

    def accuracy(module: torch.nn.Module) -> float:
        answers = outputs_of(module, torch.from_numpy(held_out.x), 600).argmax(dim=1).numpy()
        return float((answers == held_out.y).mean())

    static, followed, learned = [], [], []
    for seed in range(5):
        context = make_context(seed=seed)
        network = residual((1, 8, 8), 10, 4)
        network = Network.create(network.architecture, seed)
        fit(network.module, train, label_loss("classification"), Schedule(epochs=8, learning_rate=1e-2), context)
        static.append(accuracy(four_bits(network, train).module))
        for learn_scales, results in ((False, followed), (True, learned)):
            simulation = four_bits(network, train, learn_scales=learn_scales)
            fit(
                simulation.module,
                train,
                label_loss("classification"),
                Schedule(epochs=4, learning_rate=2e-3),
                make_context(seed=seed),
                before_step=simulation.observe_until(0.5),
            )
            simulation.settle()
            results.append(accuracy(simulation.module))
    assert np.mean(followed) > np.mean(static) + 0.01
    assert np.mean(learned) > np.mean(static) + 0.02
    assert all(after > before for before, after in zip(static, learned, strict=True))


@pytest.mark.parametrize("fields", [{"weight_bits": 6}, {"freeze_observers_at": 1.5}, {"teacher_weight": -0.1}])
def test_spec_rejects_values_out_of_bounds(fields):
    with pytest.raises(ValidationError):
        QuantizeAware(**fields)
