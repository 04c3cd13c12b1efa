"""Made-up traffic of a ten-class model, hour by hour, in which one thing at a time can be changed. N rows."""

from dataclasses import dataclass

import numpy as np

from tasks.decisions.window import Labels, Rows, Service, Window

_NUM_CLASSES, _SKETCH_SIZE = 10, 8
_CENTRES = np.random.default_rng(5).standard_normal((_NUM_CLASSES, _SKETCH_SIZE)) / 2
_BRIGHTNESS = np.random.default_rng(6).standard_normal(_SKETCH_SIZE) / 2
_LEAST = 1 / _NUM_CLASSES
"""Confidence of an answer that is no more likely than the others."""
_CALM_BETA = (6.0, 0.7)
ACCURACY = _LEAST + (1.0 - _LEAST) * _CALM_BETA[0] / sum(_CALM_BETA)
"""Of the model on its usual traffic: the mean confidence, which is honest."""
_DEVIATION_OF_LATENCY = 0.4


@dataclass(frozen=True)
class Shift:
    """What is different from the usual traffic."""

    brightness: float = 0.0
    """Of every input's mean value, in its own standard deviations."""
    first_class: float = 1 / _NUM_CLASSES
    """Share of the rows that are of the first class; the others share the rest equally."""
    confidence_drop: float = 0.0
    accuracy_drop: float = 0.0
    slower: float = 1.0
    error_rate: float = 0.005


USUAL = Shift()


def rows(generator: np.random.Generator, num: int, shift: Shift = USUAL, *, labelled: bool = False) -> Rows:
    """Draw rows whose mean value, sketch and class go together."""
    rest = (1.0 - shift.first_class) / (_NUM_CLASSES - 1)
    classes = generator.choice(_NUM_CLASSES, num, p=[shift.first_class, *[rest] * (_NUM_CLASSES - 1)])
    level = generator.standard_normal(num) + shift.brightness
    confidence = _LEAST + (1.0 - _LEAST) * generator.beta(*_CALM_BETA, num)
    right = generator.random(num) < confidence if labelled else None
    noise = generator.standard_normal((num, _SKETCH_SIZE))
    return Rows(
        task="classification",
        input_mean=0.3 + 0.08 * level,
        input_std=0.25 * np.exp(0.1 * generator.standard_normal(num) + 0.03 * level),
        input_sketch=_CENTRES[classes] + noise + level[:, None] * _BRIGHTNESS,
        prediction=classes.astype(np.float64),
        confidence=np.maximum(confidence - shift.confidence_drop, _LEAST),
        right=right,
    )


def service(generator: np.random.Generator, num: int, shift: Shift = USUAL) -> Service:
    """Draw how `num` requests of one row were served."""
    errors = int(generator.binomial(num, shift.error_rate))
    latencies = shift.slower * generator.lognormal(0.0, _DEVIATION_OF_LATENCY, num - errors)
    return Service(requests=num, errors=errors, latencies_ms={1: latencies})


def window(
    generator: np.random.Generator, num_rows: int, num_requests: int, num_labels: int, shift: Shift = USUAL
) -> Window:
    """Draw an hour: of its requests, some rows are compared and some get labels."""
    right = generator.random(num_labels) < ACCURACY - shift.accuracy_drop
    return Window(
        rows=rows(generator, num_rows, shift),
        num_rows=num_requests,
        service=service(generator, num_requests, shift),
        labels=Labels(right=right, delays_s=np.full(num_labels, 60.0), answered=num_requests, labelled=num_labels),
    )
