import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.techniques.quantization.blocks import block_length, quantise_blocks

GENERATOR = np.random.default_rng(0)


def test_quantise_blocks_is_as_by_hand_when_symmetric():
    blocks = quantise_blocks(np.array([[0.5, -4.0, 0.0, 3.6]], np.float32), 1, symmetric=True, half_scales=False)
    assert blocks.scales.tolist() == [[0.5]]  # -4 / -8
    assert blocks.levels.tolist() == [[1, -8, 0, 7]]  # 3.6 / 0.5 = 7.2
    assert blocks.zero_points is None
    assert blocks.decoded().tolist() == [[0.5, -4.0, 0.0, 3.5]]


def test_quantise_blocks_has_a_negative_scale_when_the_largest_weight_is_positive():
    blocks = quantise_blocks(np.array([[4.0, -3.6]], np.float32), 1, symmetric=True, half_scales=False)
    assert blocks.scales.tolist() == [[-0.5]]
    assert blocks.levels.tolist() == [[-8, 7]]
    assert blocks.decoded().tolist() == [[4.0, -3.5]]


def test_quantise_blocks_is_as_by_hand_when_asymmetric():
    blocks = quantise_blocks(np.array([[-1.0, 6.5, 0.0, 2.3]], np.float32), 1, symmetric=False, half_scales=False)
    assert blocks.scales.tolist() == [[0.5]]  # 7.5 / 15
    assert blocks.zero_points.tolist() == [[2]]  # 1 / 0.5
    assert blocks.levels.tolist() == [[0, 15, 2, 7]]  # 2.3 / 0.5 + 2 = 6.6
    assert blocks.decoded().tolist() == [[-1.0, 6.5, 0.0, 2.5]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("half_scales", [True, False])
def test_quantise_blocks_errs_by_half_a_step_at_most_and_keeps_zeros(symmetric, half_scales):
    weights = GENERATOR.normal(size=(50, 32)).astype(np.float32)
    weights[:, ::3] = 0
    weights[7] = 0
    blocks = quantise_blocks(weights, 1, symmetric=symmetric, half_scales=half_scales)
    error = np.abs(blocks.decoded() - weights)
    steps = np.abs(blocks.scales) * (1.01 if half_scales else 1)
    clipped = np.sign(weights) == -np.sign(weights[np.arange(50), np.abs(weights).argmax(axis=1)])[:, None]
    limit = np.where(clipped & symmetric, 1.0, 0.51 if not symmetric else 0.5)  # the far end has 7 levels, not 8
    assert (error <= limit * steps + 1e-6).all()
    assert (blocks.decoded()[weights == 0] == 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_quantise_blocks_agrees_with_onnxruntime(symmetric):
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantizer as Reference

    weights = GENERATOR.normal(size=(40, 32)).astype(np.float32)
    blocks = quantise_blocks(weights, 1, symmetric=symmetric, half_scales=False)
    if symmetric:
        levels, scales = Reference.quant_slice_symmetric(weights)
    else:
        levels, scales, zero_points = Reference.quant_slice_asymmetric(weights)
        np.testing.assert_array_equal(blocks.zero_points, zero_points)
    np.testing.assert_allclose(blocks.scales, scales, rtol=1e-6)
    assert (blocks.levels != levels).mean() < 0.01  # ties of rounding (w / s) + z against w / s


@given(st.integers(1, 5000), st.sampled_from([16, 32, 64, 128, 256]))
def test_block_length_divides_and_is_neither_tiny_nor_too_long(num_weights, block_size):
    length = block_length(num_weights, block_size)
    assert num_weights % length == 0
    assert length == num_weights or block_size / 4 <= length <= block_size


@pytest.mark.parametrize(("num_weights", "length"), [(64, 32), (144, 24), (9, 9), (37, 37), (784, 28), (27, 27)])
def test_block_length_is_as_by_hand(num_weights, length):
    assert block_length(num_weights, 32) == length
