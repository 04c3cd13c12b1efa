"""The frame of the Pareto picture: scales, grid lines and their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

from markupsafe import Markup

from tasks.contracts.evaluation import METRIC_DIRECTIONS
from tasks.reporting.figures import NBSP, bytes_text, metric, number
from tasks.reporting.labels import Box
from tasks.reporting.scales import Scale, linear_scale, linear_ticks, log_scale, log_ticks
from tasks.reporting.svg import element

_SMALLEST_SPAN = {True: 0.01, False: 1e-6}
"""Least range of the quality axis: one point for shares."""


@dataclass(frozen=True)
class Axes:
    """Where values lie in the picture."""

    size: Scale
    quality: Scale
    metric_name: str
    area: Box
    """The plot within the axes."""
    font_size: float

    def place(self, size_bytes: float, quality: float) -> tuple[float, float]:
        """Return the position of a model."""
        return self.size(size_bytes), self.quality(quality)


def make_axes(
    sizes: Sequence[float], qualities: Sequence[float], metric_name: str, width: float, height: float
) -> Axes:
    """Return axes that hold all values with room for the labels.

    Args:
        sizes: bytes, positive, at least one.
        qualities: finite, as many.
        metric_name: what the qualities are.
        width: of the whole picture.
        height: of the whole picture.
    """
    compact = width < 500.0
    font_size = 12.0 if compact else 13.0
    left, top = (52.0, 84.0) if compact else (68.0, 60.0)
    area = Box(left, top, width - left - 12.0, height - top - 46.0)
    span = _SMALLEST_SPAN[_is_share(metric_name)]
    return Axes(
        size=log_scale(list(sizes), area.left, area.right),
        quality=linear_scale(list(qualities), area.bottom, area.top, smallest_span=span, margin=0.18),
        metric_name=metric_name,
        area=area,
        font_size=font_size,
    )


def draw_axes(axes: Axes) -> Markup:
    """Return grid lines, tick labels and the names of both axes."""
    area, size = axes.area, axes.font_size
    few = area.width < 400.0
    rows = [
        value for value in linear_ticks(axes.quality.low, axes.quality.high, 5) if _possible(axes.metric_name, value)
    ]
    columns = log_ticks(axes.size.low, axes.size.high, 4 if few else 8)
    drawn = [line for value in rows for line in _row(axes, value, rows)]
    drawn += [line for value in columns for line in _column(axes, value)]
    better = METRIC_DIRECTIONS.get(axes.metric_name, "higher")
    drawn.append(
        element("text", f"{axes.metric_name}, {better} is better", x=area.left, y=area.top - 10, class_="axis-name")
    )
    drawn.append(
        element(
            "text",
            "size at rest, logarithmic",
            x=area.right,
            y=area.bottom + 2.9 * size,
            text_anchor="end",
            class_="axis-name",
        )
    )
    return element("g", *drawn, aria_hidden="true")


def _row(axes: Axes, value: float, ticks: Sequence[float]) -> tuple[Markup, Markup]:
    y, area = axes.quality(value), axes.area
    text = _tick_text(axes.metric_name, value, ticks)
    return (
        element("line", x1=area.left, x2=area.right, y1=y, y2=y, class_="grid"),
        element(
            "text",
            text,
            x=area.left - 8,
            y=y + axes.font_size * 0.35,
            text_anchor="end",
            class_="tick tick-quality",
            data_value=f"{value:.12g}",
        ),
    )


def _column(axes: Axes, value: float) -> tuple[Markup, Markup]:
    x, area = axes.size(value), axes.area
    return (
        element("line", x1=x, x2=x, y1=area.top, y2=area.bottom, class_="grid"),
        element(
            "text",
            bytes_text(value).replace(".00", "").replace(".0", ""),
            x=x,
            y=area.bottom + axes.font_size * 1.4,
            text_anchor="middle",
            class_="tick tick-size",
            data_value=f"{value:.12g}",
        ),
    )


def _tick_text(metric_name: str, value: float, ticks: Sequence[float]) -> str:
    """Write a tick with as many digits as its neighbours need to differ."""
    if not _is_share(metric_name):
        return number(value)
    step = 100 * (ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    decimals = max(0, -floor(log10(step) + 1e-9))
    return f"{100 * value:.{decimals}f}{NBSP}%"


def _possible(metric_name: str, value: float) -> bool:
    """Tell whether a metric can have the value: room around the points may reach beyond 100 %."""
    return not _is_share(metric_name) or -1e-9 <= value <= 1.0 + 1e-9


def _is_share(metric_name: str) -> bool:
    return metric(metric_name, 1.0).endswith("%")
