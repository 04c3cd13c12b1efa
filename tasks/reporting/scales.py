"""Axes: from values to positions, and where the ticks go."""

import math
from dataclasses import dataclass

_NICE_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from [low, high] to [start, end]."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        if self.logarithmic:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def linear_scale(values: list[float], start: float, end: float, *, smallest_span: float, margin: float = 0.12) -> Scale:
    """Return a linear scale with room around the values.

    Args:
        values: finite, at least one.
        start: position of the low end.
        end: position of the high end.
        smallest_span: range of values that is shown at least, so that noise is not blown up.
        margin: share of the range that is added at both ends.
    """
    low, high = min(values), max(values)
    missing = max(0.0, smallest_span - (high - low))
    low, high = low - missing / 2, high + missing / 2
    room = margin * (high - low)
    return Scale(low - room, high + room, start, end)


def log_scale(values: list[float], start: float, end: float, *, margin: float = 0.12) -> Scale:
    """Return a logarithmic scale with room around the values, over a factor of four at least.

    Args:
        values: positive, at least one.
        start: position of the low end.
        end: position of the high end.
        margin: share of the logarithmic range that is added at both ends.
    """
    low, high = math.log(min(values)), math.log(max(values))
    missing = max(0.0, math.log(4.0) - (high - low))
    low, high = low - missing / 2, high + missing / 2
    room = margin * (high - low)
    return Scale(math.exp(low - room), math.exp(high + room), start, end, logarithmic=True)


def linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return about `wanted` round values between low and high, in steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(nice * power for nice in _NICE_STEPS if nice * power >= raw * 0.7)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [position * step for position in range(first, last + 1)]


def log_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return round values between low and high: 1, 2 and 5 of each decade, or the decades where that is too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in decades for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) <= wanted:
            break
    return ticks
