"""The picture's marks sit where its axes say, and its texts are readable."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from tasks.contracts.verdict import Verdict
from tasks.reporting.labels import Box
from tasks.reporting.pareto_picture import ParetoPoint, front_line, pareto_picture

POINTS = (
    ParetoPoint("baseline", "baseline", 0.9895, 2_784_813, 0.3861),
    ParetoPoint("student-int8", "front", 0.9768, 41_250, 0.0402, on_front=True, verdict=Verdict.INCONCLUSIVE),
    ParetoPoint("student-pruned-int8", "chosen", 0.9831, 61_540, 0.0463, on_front=True, verdict=Verdict.PASS),
    ParetoPoint("pruned-int8", "dominated", 0.9801, 205_000, 0.0720, verdict=Verdict.FAIL),
)


def drawn(points=POINTS, **more):
    return ElementTree.fromstring(str(pareto_picture(points, "accuracy", **more)))


def classed(root, name):
    return [one for one in root.iter() if name in one.get("class", "").split()]


def centre(mark):
    shape = next(one for one in mark.iter() if one.tag.split("}")[-1] in ("circle", "rect"))
    if shape.tag.endswith("rect"):
        return (
            float(shape.get("x")) + float(shape.get("width")) / 2,
            float(shape.get("y")) + float(shape.get("height")) / 2,
        )
    return float(shape.get("cx")), float(shape.get("cy"))


def read_axis(root, name, coordinate):
    """Return (value, position) of every tick of an axis."""
    return [(float(tick.get("data-value")), float(tick.get(coordinate))) for tick in classed(root, name)]


@pytest.mark.parametrize("width", [760.0, 350.0])
def test_pareto_picture_puts_marks_where_the_ticks_say(width):
    root = drawn(width=width, height=420.0)
    (size_0, x_0), *_, (size_1, x_1) = read_axis(root, "tick-size", "x")
    (quality_0, y_0), *_, (quality_1, y_1) = read_axis(root, "tick-quality", "y")
    marks = {mark.get("data-name"): centre(mark) for mark in classed(root, "mark")}
    assert set(marks) == {point.name for point in POINTS}
    baseline_shift = (12.0 if width < 500 else 13.0) * 0.35  # tick texts hang a little below their line
    for point in POINTS:
        part = math.log(point.size_bytes / size_0) / math.log(size_1 / size_0)
        assert marks[point.name][0] == pytest.approx(x_0 + part * (x_1 - x_0), abs=0.05)
        part = (point.quality - quality_0) / (quality_1 - quality_0)
        assert marks[point.name][1] == pytest.approx(y_0 - baseline_shift + part * (y_1 - y_0), abs=0.05)


def test_pareto_picture_draws_discs_with_areas_in_the_ratio_of_latencies():
    radii = sorted(float(disc.get("r")) for disc in classed(drawn(), "disc"))
    latencies = sorted(point.latency_ms for point in POINTS)
    assert [(radius / radii[-1]) ** 2 for radius in radii] == pytest.approx(
        [latency / latencies[-1] for latency in latencies], rel=0.01
    )


def test_front_line_keeps_what_is_best_for_its_size_in_either_direction():
    small = ParetoPoint("small", "front", 0.90, 10, 1.0, on_front=True)
    worse = ParetoPoint("fast only", "front", 0.85, 20, 0.1, on_front=True)
    large = ParetoPoint("large", "front", 0.95, 30, 1.0, on_front=True)
    off = ParetoPoint("off", "dominated", 0.99, 25, 1.0)
    assert front_line([large, off, worse, small], "accuracy") == [small, large]
    assert front_line([large, off, worse, small], "rmse") == [small, worse]


@pytest.mark.parametrize("width", [760.0, 350.0])
def test_pareto_picture_labels_do_not_overlap_when_points_crowd(width):
    crowd = [
        ParetoPoint(
            f"candidate-{position:02d}", "dominated", 0.98 + 0.001 * (position % 3), 60_000 + 900 * position, 0.05
        )
        for position in range(12)
    ]
    root = drawn([*POINTS, *crowd], width=width, height=420.0)
    size = 12.0 if width < 500 else 13.0
    boxes = []
    for label in classed(root, "label-box"):
        texts = [one for one in label if one.tag.endswith("text")]
        widest = max(len(text.text) * (0.56 if position else 0.66) for position, text in enumerate(texts))
        boxes.append(
            Box(float(texts[0].get("x")), float(texts[0].get("y")) - size, widest * size, 1.3 * len(texts) * size)
        )
    assert len(boxes) >= 3
    assert all(box.right <= width for box in boxes)
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("width", [760.0, 350.0])
def test_pareto_picture_labels_every_point_when_there_is_room(width):
    names = [text.text.split(",")[0] for text in classed(drawn(width=width, height=420.0), "label")]
    assert sorted(names) == sorted(point.name for point in POINTS)


def test_pareto_picture_names_the_figures_of_a_mark_whose_label_is_left_out():
    titles = [mark[0].text for mark in classed(drawn(), "mark")]
    assert any(
        re.match(r"pruned-int8 \(beaten by another, FAIL\): 205.kB . 98\.01.% . 0\.072.ms", one) for one in titles
    )


def test_pareto_picture_escapes_names():
    hostile = ParetoPoint('<script>"&', "front", 0.98, 1_000, 0.1, on_front=True)
    text = str(pareto_picture([hostile], "accuracy"))
    assert "<script" not in text
    assert any(mark.get("data-name") == '<script>"&' for mark in classed(ElementTree.fromstring(text), "mark"))


def test_pareto_picture_leaves_out_what_has_no_figures():
    lost = ParetoPoint("lost", "front", float("nan"), 1_000, 0.1)
    assert "lost" not in str(pareto_picture([*POINTS, lost], "accuracy"))
    assert "No model has figures" in str(pareto_picture([lost], "accuracy"))


def test_pareto_picture_is_a_file_of_its_own_when_standalone():
    root = drawn(standalone=True)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert classed(root, "ground")
    assert "--accent" in next(one for one in root.iter() if one.tag.endswith("style")).text
