"""Text is readable in light and in dark: contrast of at least 4.5 (WCAG 2.2, level AA)."""

import re

import pytest

from tasks.reporting.stylesheets import read_stylesheet


def palette(dark):
    light_css, dark_css = read_stylesheet("palette.css").split("@media")
    return dict(re.findall(r"--([\w-]+): #([0-9a-f]{6});", dark_css if dark else light_css))


def luminance(colour):
    channels = [int(colour[position : position + 2], 16) / 255 for position in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("text", ["ink", "soft", "accent", "good", "bad", "unsure"])
@pytest.mark.parametrize("behind", ["ground", "surface"])
def test_palette_has_enough_contrast(dark, text, behind):
    colours = palette(dark)
    first, second = luminance(colours[text]), luminance(colours[behind])
    assert (max(first, second) + 0.05) / (min(first, second) + 0.05) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_palette_has_enough_contrast_on_the_disc(dark):
    """Labels may come to lie over a disc."""
    colours = palette(dark)
    first, second = luminance(colours["ink"]), luminance(colours["accent-pale"])
    assert (max(first, second) + 0.05) / (min(first, second) + 0.05) >= 4.5
