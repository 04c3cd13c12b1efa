"""The Pareto picture: quality over size on a logarithmic axis, with latency as the area of a disc."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Literal

from markupsafe import Markup

from tasks.contracts.evaluation import METRIC_DIRECTIONS
from tasks.contracts.verdict import Verdict
from tasks.reporting.figures import bytes_text, metric, milliseconds
from tasks.reporting.labels import Anchor, Box, place_labels
from tasks.reporting.pareto_axes import Axes, draw_axes, make_axes
from tasks.reporting.stylesheets import read_stylesheet
from tasks.reporting.svg import element, path, picture

Kind = Literal["baseline", "chosen", "front", "dominated"]

_LARGEST_DISC = {False: 26.0, True: 18.0}
_MARK = 5.0
_LINE_HEIGHT = 1.3
_GLYPH_WIDTH, _BOLD_GLYPH_WIDTH = 0.56, 0.66
"""Mean width of a glyph of the wider system fonts, as a share of the font size, on the safe side."""
_LONGEST_NAME = 28
_ORDER: tuple[Kind, ...] = ("baseline", "chosen", "front", "dominated")
_LEGEND: dict[Kind, str] = {
    "baseline": "baseline",
    "chosen": "chosen",
    "front": "on the front",
    "dominated": "beaten by another",
}


@dataclass(frozen=True)
class ParetoPoint:
    """One model in the picture."""

    name: str
    kind: Kind
    quality: float
    size_bytes: int
    latency_ms: float
    on_front: bool = False
    """Not beaten by another candidate in quality, size and latency together."""
    verdict: Verdict | None = None
    """The gate's; None for the baseline."""


def pareto_picture(
    points: Sequence[ParetoPoint],
    metric_name: str,
    *,
    width: float = 760.0,
    height: float = 440.0,
    standalone: bool = False,
) -> Markup:
    """Draw models as marks at (size, quality); the disc around a mark has an area proportional to its latency.

    The line joins the models of the front that are best in quality for their size. A label that finds no free
    place is left out; the mark still speaks its figures as its title.

    Args:
        points: models; those whose figures are not finite are left out.
        metric_name: what `quality` is.
        width: in pixels at natural size; below 500 the labels are shortened.
        height: in pixels at natural size.
        standalone: make it a file of its own, with colours and background.
    """
    compact = width < 500.0
    shown = sorted((point for point in points if _drawable(point)), key=lambda point: _ORDER.index(point.kind))
    title = f"{metric_name} over size at rest of {len(shown)} models"
    body: list[Markup] = []
    if standalone:
        style = " ".join((read_stylesheet("palette.css") + read_stylesheet("pareto.css")).split())
        body += [element("style", Markup(style)), element("rect", width=width, height=height, class_="ground")]  # noqa: S704 - our own file
    if not shown:
        body.append(element("text", "No model has figures to draw.", x=width / 2, y=height / 2, text_anchor="middle"))
        return picture(width, height, title, *body, standalone=standalone, class_="pareto")
    axes = make_axes(
        [point.size_bytes for point in shown], [point.quality for point in shown], metric_name, width, height
    )
    body += [
        _legend(shown, axes),
        draw_axes(axes),
        _front_line(shown, axes, metric_name),
        _discs(shown, axes, compact),
        _labels(shown, axes, metric_name, compact),
        *(_mark(point, axes, metric_name) for point in reversed(shown)),
    ]
    return picture(width, height, title, *body, standalone=standalone, class_="pareto")


def front_line(points: Sequence[ParetoPoint], metric_name: str) -> list[ParetoPoint]:
    """Return the points of the front that are best in quality among those of their size or smaller, by size."""
    sign = 1.0 if METRIC_DIRECTIONS.get(metric_name, "higher") == "higher" else -1.0
    line: list[ParetoPoint] = []
    for point in sorted(points, key=lambda point: (point.size_bytes, -sign * point.quality)):
        if point.on_front and (not line or sign * point.quality > sign * line[-1].quality):
            line.append(point)
    return line


def _drawable(point: ParetoPoint) -> bool:
    return isfinite(point.quality) and isfinite(point.latency_ms) and point.size_bytes > 0


def _front_line(points: Sequence[ParetoPoint], axes: Axes, metric_name: str) -> Markup:
    line = [axes.place(point.size_bytes, point.quality) for point in front_line(points, metric_name)]
    return element("path", d=path(line), class_="front-line") if len(line) > 1 else Markup("")


def _discs(points: Sequence[ParetoPoint], axes: Axes, compact: bool) -> Markup:
    drawn = []
    for point in points:
        x, y = axes.place(point.size_bytes, point.quality)
        drawn.append(element("circle", cx=x, cy=y, r=_disc_radius(point, points, compact), class_="disc"))
    return element("g", *drawn, aria_hidden="true")


def _disc_radius(point: ParetoPoint, points: Sequence[ParetoPoint], compact: bool) -> float:
    slowest = max(other.latency_ms for other in points)
    return _LARGEST_DISC[compact] * sqrt(point.latency_ms / slowest) if slowest > 0 else _MARK


def _mark(point: ParetoPoint, axes: Axes, metric_name: str) -> Markup:
    x, y = axes.place(point.size_bytes, point.quality)
    words = f"{point.name} ({_LEGEND[point.kind]}{_refused(point)}): {_figures(point, metric_name, compact=False)}"
    return element("g", element("title", words), _shape(point.kind, x, y), class_="mark", data_name=point.name)


def _shape(kind: Kind, x: float, y: float) -> Markup:
    if kind == "baseline":
        return element("rect", x=x - _MARK, y=y - _MARK, width=2 * _MARK, height=2 * _MARK, class_="mark-baseline")
    if kind == "chosen":
        ring = element("circle", cx=x, cy=y, r=_MARK + 3, class_="mark-ring")
        return element("g", ring, element("circle", cx=x, cy=y, r=_MARK, class_="mark-front"))
    return element("circle", cx=x, cy=y, r=_MARK, class_=f"mark-{kind}")


def _labels(points: Sequence[ParetoPoint], axes: Axes, metric_name: str, compact: bool) -> Markup:
    texts = [_label_lines(point, metric_name, compact) for point in points]
    anchors = []
    for point, lines in zip(points, texts, strict=True):
        x, y = axes.place(point.size_bytes, point.quality)
        disc = max(_disc_radius(point, points, compact), _MARK + 4)
        size = axes.font_size
        glyphs = [len(lines[0]) * _BOLD_GLYPH_WIDTH, *(len(line) * _GLYPH_WIDTH for line in lines[1:])]
        anchors.append(Anchor(x, y, _MARK + 4, disc, max(glyphs) * size, len(lines) * size * _LINE_HEIGHT))
    boxes = place_labels(anchors, axes.area)
    drawn = [
        _label(anchor, box, lines, axes.font_size)
        for anchor, box, lines in zip(anchors, boxes, texts, strict=True)
        if box is not None
    ]
    return element("g", *drawn, aria_hidden="true")


def _label_lines(point: ParetoPoint, metric_name: str, compact: bool) -> tuple[str, ...]:
    name = point.name if len(point.name) <= _LONGEST_NAME else f"{point.name[: _LONGEST_NAME - 1]}\u2026"
    figures = _figures(point, metric_name, compact=compact)
    if compact and _refused(point):
        return name, figures, str(point.verdict)  # a line of its own: beside the name it would not fit
    return f"{name}{_refused(point)}", figures


def _refused(point: ParetoPoint) -> str:
    return f", {point.verdict}" if point.verdict not in (None, Verdict.PASS) else ""


def _figures(point: ParetoPoint, metric_name: str, *, compact: bool) -> str:
    figures = [bytes_text(point.size_bytes), metric(metric_name, point.quality)]
    return " \u00b7 ".join(figures if compact else [*figures, milliseconds(point.latency_ms)])


def _label(anchor: Anchor, box: Box, lines: tuple[str, ...], font_size: float) -> Markup:
    step = font_size * _LINE_HEIGHT
    texts = [
        element(
            "text",
            line,
            x=box.left,
            y=box.top + position * step + font_size,
            class_="label-figures" if position else "label",
        )
        for position, line in enumerate(lines)
    ]
    return element("g", *_leader(anchor, box), *texts, class_="label-box")


def _leader(anchor: Anchor, box: Box) -> list[Markup]:
    """Return a thin line from a label to its point, where the label had to move away."""
    x = min(max(anchor.x, box.left), box.right)
    y = min(max(anchor.y, box.top), box.bottom)
    far = sqrt((x - anchor.x) ** 2 + (y - anchor.y) ** 2) > anchor.disc + 5
    return [element("path", d=path([(anchor.x, anchor.y), (x, y)]), class_="leader")] if far else []


def _legend(points: Sequence[ParetoPoint], axes: Axes) -> Markup:
    """Draw a key of the marks in use, in as many lines as the width needs."""
    kinds = [kind for kind in _ORDER if any(point.kind == kind for point in points)]
    drawn: list[Markup] = []
    x, y, step = axes.area.left, axes.font_size, axes.font_size * 1.6
    for kind in kinds:
        drawn += [_shape(kind, x + _MARK + 2, y - axes.font_size * 0.35)]
        drawn += [element("text", _LEGEND[kind], x=x + 2 * _MARK + 9, y=y, class_="key")]
        x += 2 * _MARK + 27 + len(_LEGEND[kind]) * axes.font_size * _GLYPH_WIDTH
        if x > axes.area.right - 90:
            x, y = axes.area.left, y + step
    drawn.append(element("text", "disc area: p50 latency", x=x, y=y, class_="key"))
    return element("g", *drawn, aria_hidden="true")
