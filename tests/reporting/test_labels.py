"""Labels cover neither each other nor a mark."""

import itertools
import random

from tasks.reporting.labels import Anchor, Box, place_labels

AREA = Box(0.0, 0.0, 700.0, 350.0)


def anchor(x: float, y: float) -> Anchor:
    return Anchor(x, y, mark=9.0, disc=12.0, width=150.0, height=34.0)


def test_place_labels_puts_a_lone_label_to_the_right_of_its_point():
    (box,) = place_labels([anchor(100.0, 100.0)], AREA)
    assert box == Box(116.0, 83.0, 150.0, 34.0)


def test_place_labels_stays_inside_when_the_point_is_at_the_edge():
    (box,) = place_labels([anchor(695.0, 5.0)], AREA)
    assert box is not None
    assert AREA.contains(box)


def test_place_labels_never_overlaps_when_points_crowd():
    rng = random.Random(7)
    for _ in range(50):
        centre = rng.uniform(100, 600), rng.uniform(60, 300)
        anchors = [anchor(centre[0] + rng.gauss(0, 60), centre[1] + rng.gauss(0, 30)) for _ in range(12)]
        boxes = place_labels(anchors, AREA)
        placed = [(position, box) for position, box in enumerate(boxes) if box]
        assert len(placed) >= 4
        assert not any(first.overlaps(second) for (_, first), (_, second) in itertools.combinations(placed, 2))
        for position, box in placed:
            others = [one for index, one in enumerate(anchors) if index != position]
            assert not any(box.overlaps(Box(one.x - 9, one.y - 9, 18, 18)) for one in others)


def test_place_labels_leaves_a_label_out_when_nothing_is_free():
    boxes = place_labels([anchor(75.0, 20.0)], Box(0.0, 0.0, 140.0, 40.0))
    assert boxes == [None]
