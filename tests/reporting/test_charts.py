"""Small charts show what they are told."""

from xml.etree import ElementTree

import pytest

from tasks.reporting.charts import bar, deviation_bar, sparkline


def part(drawing, name):
    return next(one for one in ElementTree.fromstring(str(drawing)).iter() if one.get("class") == name)


@pytest.mark.parametrize(("fraction", "length"), [(0.0, 0.0), (0.001, 1.0), (0.25, 25.0), (1.7, 100.0)])
def test_bar_is_as_long_as_its_fraction(fraction, length):
    assert float(part(bar(fraction, "a quarter"), "bar-fill").get("width")) == length


def test_deviation_bar_goes_left_for_a_loss_and_right_for_a_gain():
    loss = part(deviation_bar(-0.01, 0.02, "loss", better=False), "bar-worse")
    gain = part(deviation_bar(0.02, 0.02, "gain", better=True), "bar-better")
    assert (float(loss.get("x")), float(loss.get("width"))) == (25.0, 25.0)
    assert (float(gain.get("x")), float(gain.get("width"))) == (50.0, 50.0)


def test_deviation_bar_is_empty_when_nothing_changed_anywhere():
    assert float(part(deviation_bar(0.0, 0.0, "nothing", better=True), "bar-better").get("width")) == 0.0


def test_sparkline_falls_when_values_fall():
    line = part(sparkline([3.0, 2.0, float("nan"), 1.0], "loss"), "spark-line").get("d")
    heights = [float(pair.split()[1]) for pair in line.removeprefix("M").split("L")]
    assert heights == [5.0, 28.0, 51.0]


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0], [2.0, 2.0]])
def test_sparkline_is_well_formed_when_there_is_little_to_show(values):
    assert ElementTree.fromstring(str(sparkline(values, "a <title>"))).get("aria-label", "").startswith("a <title>")
