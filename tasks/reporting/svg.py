"""SVG elements as escaped text."""

from markupsafe import Markup, escape

Attribute = str | float | int | None


def element(name: str, *children: str, **attributes: Attribute) -> Markup:
    """Return an SVG element; text and attributes are escaped, `Markup` children are taken as they are.

    Args:
        name: tag name.
        children: text or elements.
        attributes: `class_` becomes `class` and `text_anchor` becomes `text-anchor`; None leaves one out.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{}{}>{}</{}>").format(Markup(name), written, inner, Markup(name))  # noqa: S704 - our own tag names


def picture(
    width: float, height: float, title: str, *children: str, standalone: bool = False, **more: Attribute
) -> Markup:
    """Return a whole drawing with a title that screen readers speak.

    Args:
        width: in user units; the drawing scales with its box.
        height: in user units.
        title: what the drawing shows, in words.
        children: elements.
        standalone: declare the name space, as a file of its own needs it.
        more: further attributes.
    """
    return element(
        "svg",
        element("title", title),
        *children,
        xmlns="http://www.w3.org/2000/svg" if standalone else None,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        role="img",
        aria_label=title,
        **more,
    )


def path(points: list[tuple[float, float]]) -> str:
    """Return the `d` of a line through points."""
    return "M" + "L".join(f"{_value(x)} {_value(y)}" for x, y in points)


def _value(value: Attribute) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
