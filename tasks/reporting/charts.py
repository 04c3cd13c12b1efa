"""Small charts within tables and text: bars, bars around zero, and sparklines."""

from collections.abc import Sequence
from math import isfinite

from markupsafe import Markup

from tasks.reporting.scales import linear_scale
from tasks.reporting.svg import element, path, picture

_LENGTH, _THICKNESS = 100.0, 6.0


def bar(fraction: float, title: str) -> Markup:
    """Draw a bar from the left over `fraction` of the track; a fraction above 0 shows at least a sliver."""
    length = _LENGTH * min(1.0, max(0.0, fraction))
    length = max(length, 1.0) if fraction > 0 else length
    return _strip(title, element("rect", x=0, y=0, width=length, height=_THICKNESS, class_="bar-fill"))


def deviation_bar(value: float, limit: float, title: str, *, better: bool) -> Markup:
    """Draw a bar from the middle: to the right for a positive value, to the left for a negative one.

    Args:
        value: what is shown.
        limit: the value that fills a half; larger ones are cut off.
        title: the value in words.
        better: whether the value is good news; a worse one is hatched differently by its class.
    """
    half = _LENGTH / 2
    length = half * min(1.0, abs(value) / limit) if limit > 0 else 0.0
    start = half if value >= 0 else half - length
    fill = element(
        "rect", x=start, y=0, width=length, height=_THICKNESS, class_="bar-better" if better else "bar-worse"
    )
    return _strip(title, fill, element("rect", x=half - 0.5, y=0, width=1, height=_THICKNESS, class_="bar-zero"))


def sparkline(values: Sequence[float], title: str, *, width: float = 240.0, height: float = 56.0) -> Markup:
    """Draw a line through the finite values, in order, with a dot at the last of them.

    Args:
        values: one per epoch.
        title: what is shown, in words.
        width: in user units.
        height: in user units.
    """
    finite = [(position, value) for position, value in enumerate(values) if isfinite(value)]
    if not finite:
        return picture(width, height, f"{title}: no finite value", class_="sparkline")
    span = 1e-9 + 1e-6 * max(abs(value) for _, value in finite)
    rise = linear_scale([value for _, value in finite], height - 5, 5, smallest_span=span, margin=0.0)
    step = (width - 10) / max(1, len(values) - 1)
    line = [(5 + position * step, rise(value)) for position, value in finite]
    x, y = line[-1]
    return picture(
        width,
        height,
        title,
        element("line", x1=0, x2=width, y1=height - 0.5, y2=height - 0.5, class_="spark-ground"),
        element("path", d=path(line), class_="spark-line"),
        element("circle", cx=x, cy=y, r=3, class_="spark-dot"),
        class_="sparkline",
    )


def _strip(title: str, *children: Markup) -> Markup:
    track = element("rect", x=0, y=0, width=_LENGTH, height=_THICKNESS, class_="bar-track")
    return picture(_LENGTH, _THICKNESS, title, track, *children, preserveAspectRatio="none", class_="bar")
