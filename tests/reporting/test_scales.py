"""Axes put values where they belong and ticks on round values."""

import pytest

from tasks.reporting.scales import linear_scale, linear_ticks, log_scale, log_ticks


def test_log_scale_puts_equal_ratios_at_equal_distances():
    scale = log_scale([1e3, 1e6], 0.0, 300.0, margin=0.0)
    assert [scale(10.0**power) for power in (3, 4, 5, 6)] == pytest.approx([0.0, 100.0, 200.0, 300.0])


def test_linear_scale_centres_a_single_value():
    scale = linear_scale([0.98], 100.0, 0.0, smallest_span=0.01)
    assert scale(0.98) == pytest.approx(50.0)
    assert scale.high - scale.low >= 0.01


def test_linear_ticks_are_round_and_inside():
    assert linear_ticks(0.9741, 0.9903, 4) == pytest.approx([0.975, 0.98, 0.985, 0.99])
    assert linear_ticks(0.0, 10.0, 5) == pytest.approx([0, 2, 4, 6, 8, 10])


def test_log_ticks_thin_out_when_there_are_many_decades():
    assert log_ticks(3e4, 4e6, 8) == pytest.approx([5e4, 1e5, 2e5, 5e5, 1e6, 2e6])
    assert log_ticks(1e3, 1e7, 5) == pytest.approx([1e3, 1e4, 1e5, 1e6, 1e7])
