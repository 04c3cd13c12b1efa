"""Placing labels beside points so that no label covers another label or a point."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
_DISTANCES = (4.0, 14.0, 28.0, 44.0, 64.0)


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return self.top + self.height

    def overlaps(self, other: "Box") -> bool:
        """Tell whether the two share an area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def contains(self, other: "Box") -> bool:
        """Tell whether `other` lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True)
class Anchor:
    """A point to be labelled: a mark with a disc around it, and the size of its label."""

    x: float
    y: float
    mark: float
    """Half the width of the mark, which no label may cover."""
    disc: float
    """Radius that labels keep away from where they can."""
    width: float
    height: float


def place_labels(anchors: Sequence[Anchor], area: Box) -> list[Box | None]:
    """Return a box for every label, inside `area`; None for a label that finds no free place.

    Greedy, in the given order: put the most important anchors first.
    """
    marks = [_square(anchor, anchor.mark) for anchor in anchors]
    discs = [_square(anchor, anchor.disc) for anchor in anchors]
    placed: list[Box] = []
    boxes: list[Box | None] = []
    for position, anchor in enumerate(anchors):
        others = [*placed, *marks[:position], *marks[position + 1 :]]
        box = _first_free(anchor, area, [*others, *discs[:position], *discs[position + 1 :]])
        box = box or _first_free(anchor, area, others)
        boxes.append(box)
        if box is not None:
            placed.append(box)
    return boxes


def _first_free(anchor: Anchor, area: Box, taken: Sequence[Box]) -> Box | None:
    for box in _places(anchor):
        if area.contains(box) and not any(box.overlaps(other) for other in taken):
            return box
    return None


def _places(anchor: Anchor) -> Iterator[Box]:
    """Yield places around the anchor, the nearest first."""
    for distance in _DISTANCES:
        reach = anchor.disc + distance
        for right, down in _DIRECTIONS:
            length = reach / (right * right + down * down) ** 0.5
            x, y = anchor.x + right * length, anchor.y + down * length
            left = x if right > 0 else x - anchor.width if right < 0 else x - anchor.width / 2
            top = y if down > 0 else y - anchor.height if down < 0 else y - anchor.height / 2
            yield Box(left, top, anchor.width, anchor.height)


def _square(anchor: Anchor, half: float) -> Box:
    return Box(anchor.x - half, anchor.y - half, 2 * half, 2 * half)
