"""Made-up traffic of a ten-class model, in which one thing at a time can be changed."""

import numpy as np

from tasks.decisions.window import Labels, Rows, Service, Window

EVEN = np.full(10, 0.1)
DOUBLED = np.r_[0.2, np.full(9, 0.8 / 9)]
"""One class comes twice as often."""
_CENTRES = np.random.default_rng(5).standard_normal((10, 8)) / 2
_BRIGHTNESS = np.random.default_rng(6).standard_normal(8) / 2


def rows(generator, num, *, brightness=0.0, classes=EVEN, confidence_drop=0.0, labelled=False):
    """Rows whose mean value, sketch and class go together; `brightness` is in its own standard deviations."""
    drawn = generator.choice(10, num, p=classes)
    level = generator.standard_normal(num) + brightness
    confidence = np.clip(0.1 + 0.9 * generator.beta(6.0, 0.7, num), 0.1, 1.0)
    right = generator.random(num) < confidence if labelled else None
    return Rows(
        task="classification",
        input_mean=0.3 + 0.08 * level,
        input_std=0.25 * np.exp(0.1 * generator.standard_normal(num) + 0.03 * level),
        input_sketch=_CENTRES[drawn] + generator.standard_normal((num, 8)) + level[:, None] * _BRIGHTNESS,
        prediction=drawn.astype(np.float64),
        confidence=np.clip(confidence - confidence_drop, 0.1, 1.0),
        right=right,
    )


def stratified_reference(generator, num_data, *, share=0.12, right=0.95):
    """A data set's rows per class [10], and its validation rows by class and answer [10, 10], drawn by class."""
    data = generator.multinomial(num_data, EVEN)
    return data, np.stack(
        [generator.multinomial(round(share * num), _answers(right)[digit]) for digit, num in enumerate(data)]
    )


def answered(generator, num, classes, right=0.95):
    """How often each class was answered [10] in a window of `num` rows."""
    return generator.multinomial(num, classes @ _answers(right))


def _answers(right):
    """Chance of each answer to each class [10, 10]: the next class is the usual mistake."""
    return right * np.eye(10) + (1.0 - right) * np.roll(np.eye(10), 1, axis=1)


def service(generator, num=1000, *, slower=1.0, errors=0, cached=0, batch=1):
    latencies = slower * generator.lognormal(0.0, 0.4, num - errors - cached)
    return Service(requests=num, errors=errors, cached=cached, latencies_ms={batch: latencies})


def labels(generator, num, accuracy, *, answered=None):
    right = generator.random(num) < accuracy
    return Labels(right=right, delays_s=np.full(num, 60.0), answered=answered or num, labelled=num)


def window(generator, num=500, *, labelled=0, accuracy=0.9, slower=1.0, **changes):
    made = rows(generator, num, **changes)
    return Window(made, num, service(generator, 1000, slower=slower), labels(generator, labelled, accuracy))
