import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.techniques.quantization.fake_quantize import (
    ActivationQuantizer,
    WeightQuantizer,
    channel_scales,
    learned_step,
)


def calibrated(*extremes: float) -> ActivationQuantizer:
    quantizer = ActivationQuantizer()
    quantizer.observer = "extremes"
    quantizer(torch.tensor(extremes))
    quantizer.observer = "off"
    return quantizer


def test_activations_are_rounded_as_by_hand():
    quantizer = calibrated(-1.0, 3.0)
    step = 4 / 255
    assert quantizer.scale.item() == pytest.approx(step)
    assert quantizer.zero_point.item() == 64  # round(63.75)
    x = torch.tensor([0.0, 0.4 * step, 0.6 * step, -1.0, -9.0, 9.0])
    # codes 64, 64, 65, round(-63.75) + 64 = 0, clipped to 0 and 255
    expected = [0.0, 0.0, step, -64 * step, -64 * step, 191 * step]
    np.testing.assert_allclose(quantizer(x).numpy(), expected, rtol=1e-6)


def test_activations_equal_the_formula_in_numpy_when_no_value_is_a_tie():
    quantizer = calibrated(-0.7, 1.9)
    x = np.random.default_rng(0).normal(0.5, 1.0, 4000)
    scale, zero_point = quantizer.scale.item(), quantizer.zero_point.item()
    ratio = x / scale
    x, ratio = x[np.abs(ratio % 1 - 0.5) > 1e-3], ratio[np.abs(ratio % 1 - 0.5) > 1e-3]
    expected = (np.clip(np.round(ratio) + zero_point, 0, 255) - zero_point) * scale
    np.testing.assert_allclose(quantizer(torch.tensor(x, dtype=torch.float32)).numpy(), expected, rtol=1e-5, atol=1e-7)


def test_activations_pass_the_gradient_inside_the_range_only():
    quantizer = calibrated(-1.0, 3.0)
    x = torch.tensor([-1.5, -0.9, 0.0, 2.9, 3.5], requires_grad=True)
    (quantizer(x) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]


def test_range_contains_zero_when_all_values_are_positive():
    quantizer = calibrated(0.5, 2.0)
    assert (quantizer.low.item(), quantizer.zero_point.item()) == (0.0, 0)
    assert quantizer.scale.item() == pytest.approx(2 / 255)


def test_activations_of_zero_stay_zero_when_nothing_else_was_seen():
    assert calibrated(0.0, 0.0)(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_range_moves_by_a_hundredth_a_step_while_it_is_averaged():
    quantizer = calibrated(-1.0, 3.0)
    quantizer.observer = "average"
    quantizer.train()(torch.tensor([0.5, 5.0]))  # the low end of a batch without negatives is 0
    assert quantizer.low.item() == pytest.approx(-0.99)
    assert quantizer.high.item() == pytest.approx(3.02)


@pytest.mark.parametrize(("observer", "training"), [("off", True), ("average", False)])
def test_range_stays_when_frozen_or_in_evaluation(observer, training):
    quantizer = calibrated(-1.0, 3.0).train(training)
    quantizer.observer = observer
    quantizer(torch.tensor([-50.0, 50.0]))
    assert (quantizer.low.item(), quantizer.high.item()) == (-1.0, 3.0)


def test_weights_of_eight_bits_are_rounded_as_by_hand():
    weight = torch.tensor([[0.504, -1.27], [2.54, 0.009]])
    quantizer = WeightQuantizer(weight, 8)
    np.testing.assert_allclose(quantizer.scale, [0.01, 0.02], rtol=1e-6)
    assert quantizer.codes(weight).tolist() == [[50, -127], [127, 0]]
    np.testing.assert_allclose(quantizer(weight), [[0.50, -1.27], [2.54, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_those_of_the_rounded_weights(bits):
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    quantizer = WeightQuantizer(weight, bits)
    codes = quantizer.codes(weight)
    assert codes.abs().max() <= 2 ** (bits - 1) - 1
    torch.testing.assert_close(codes * quantizer.scale[:, None, None, None], quantizer(weight))
    assert torch.equal(quantizer.codes(quantizer(weight)), codes)


def test_channel_scales_lose_least_when_there_are_four_bits():
    weight = torch.randn(6, 200, generator=torch.Generator().manual_seed(0))

    def error(scale_C: Tensor) -> Tensor:
        rounded = (weight / scale_C[:, None]).round().clamp(-7, 7) * scale_C[:, None]
        return (rounded - weight).square().sum(dim=1)

    chosen, largest = channel_scales(weight, 4), weight.abs().amax(dim=1) / 7
    assert (error(chosen) < 0.9 * error(largest)).all()
    finer = torch.stack([error(largest * ratio) for ratio in torch.linspace(0.2, 1.2, 500)])
    assert (error(chosen) <= 1.02 * finer.min(dim=0).values).all()


def test_learned_step_has_the_values_and_gradients_of_lsq():
    weight = torch.tensor([[0.30, -1.00, 0.09]], requires_grad=True)
    scale = torch.tensor([0.1], requires_grad=True)
    rounded = learned_step(weight, scale, 7)
    np.testing.assert_allclose(rounded.detach(), [[0.3, -0.7, 0.1]], rtol=1e-6)
    rounded.sum().backward()
    assert weight.grad.tolist() == [[1.0, 0.0, 1.0]]
    # round(3) - 3 = 0; clipped: -7; round(0.9) - 0.9 = 0.1; all times 1 / sqrt(3 * 7)
    assert scale.grad.item() == pytest.approx((0 - 7 + 0.1) / math.sqrt(21), rel=1e-4)


def test_learned_scales_start_from_the_weights_and_get_a_gradient():
    weight = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    quantizer = WeightQuantizer(weight, 4, learn_scales=True)
    torch.testing.assert_close(quantizer.scale, channel_scales(weight, 4))
    quantizer(weight).square().sum().backward()
    assert (quantizer.log_scale.grad != 0).all()


def test_fixed_scales_follow_the_weights_only_while_observing():
    weight = torch.ones(2, 3)
    quantizer = WeightQuantizer(weight, 8).train()
    quantizer(2 * weight)
    np.testing.assert_allclose(quantizer.scale, 1 / 127, rtol=1e-6)
    quantizer.observing = True
    quantizer(2 * weight)
    np.testing.assert_allclose(quantizer.scale, 2 / 127, rtol=1e-6)


def test_a_channel_of_zeros_stays_zero():
    weight = torch.zeros(1, 4)
    assert torch.equal(WeightQuantizer(weight, 8)(weight), weight)
