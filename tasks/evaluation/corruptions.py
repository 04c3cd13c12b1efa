"""What happens to inputs in the world, done to them on purpose: noise, blur, light, lost values, typos.

The kinds follow Hendrycks & Dietterich 2019 (arXiv:1903.12261) for images, and Pruthi et al. 2019 (arXiv:1905.11268)
for texts. Every amount is stated here and is the same for all models: what counts is how much more a candidate loses
than its baseline does on the very same rows. Dimension legend: N rows, C channels, H height, W width, F features,
T tokens.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from tasks.datasets.tokenization import decode, encode

_NOISE = 0.08
"""Standard deviation of noise on pixels, as a share of the range of values."""
_IMPULSES = 0.03
"""Share of the pixels that become black or white."""
_BLUR_PIXELS = 0.7
"""Standard deviation of the blur."""
_BRIGHTNESS = 0.15
"""Added to every pixel, as a share of the range."""
_CONTRAST = 0.5
"""What is left of each pixel's distance from its image's mean."""
_FEATURE_NOISE = 0.1
"""Standard deviation of noise on a feature, as a share of the feature's own."""
_MISSING = 0.1
"""Share of a table's values that are lost, and replaced by the feature's median as an imputer does."""
_TYPOS = 0.1
"""Share of the words of four letters or more that are mistyped."""

_KEYBOARD_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True)
class Reference:
    """What corruption needs to know of the data, from rows that are not the corrupted ones."""

    x: np.ndarray
    """[M, *input_shape]."""
    tokenizer: bytes | None = None
    """Of texts."""


Corruption = Callable[[np.ndarray, Reference, np.random.Generator], np.ndarray]


def suite(input_shape: tuple[int, ...], input_dtype: str, *, is_text: bool) -> dict[str, Corruption]:
    """Return the corruptions that suit rows of this kind by their names: images, tables or texts; none for others.

    Args:
        input_shape: of one row: [C, H, W], [F] or [T].
        input_dtype: of its values.
        is_text: whether a tokenizer made the rows.
    """
    if is_text:
        return dict(_TEXTS)
    if input_dtype != "float32":
        return {}
    return dict({3: _IMAGES, 1: _TABLES}.get(len(input_shape), {}))


def corrupt(name: str, corruption: Corruption, x: np.ndarray, reference: Reference) -> np.ndarray:
    """Return the rows `x` [N, *input_shape], corrupted, in their own type; equal arguments give equal rows."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    rows: np.ndarray = corruption(x, reference, generator).astype(x.dtype, copy=False)
    return rows


def _gaussian_noise(x_NCHW: np.ndarray, reference: Reference, generator: np.random.Generator) -> np.ndarray:
    low, high = _value_range(reference)
    noise = generator.standard_normal(x_NCHW.shape, dtype=np.float32)
    noisy: np.ndarray = np.clip(x_NCHW + _NOISE * (high - low) * noise, low, high)
    return noisy


def _impulse_noise(x_NCHW: np.ndarray, reference: Reference, generator: np.random.Generator) -> np.ndarray:
    """Salt and pepper: a pixel is lost in all its channels at once."""
    low, high = _value_range(reference)
    places_N1HW = generator.random((len(x_NCHW), 1, *x_NCHW.shape[2:]), dtype=np.float32)
    salted = np.where(places_N1HW < _IMPULSES / 2, np.float32(high), x_NCHW)
    return np.where(places_N1HW > 1.0 - _IMPULSES / 2, np.float32(low), salted)


def _gaussian_blur(x_NCHW: np.ndarray, reference: Reference, generator: np.random.Generator) -> np.ndarray:
    blurred: np.ndarray = gaussian_filter(x_NCHW, (0, 0, _BLUR_PIXELS, _BLUR_PIXELS), mode="nearest")
    return blurred


def _brightness(x_NCHW: np.ndarray, reference: Reference, generator: np.random.Generator) -> np.ndarray:
    low, high = _value_range(reference)
    return np.clip(x_NCHW + _BRIGHTNESS * (high - low), low, high)


def _contrast(x_NCHW: np.ndarray, reference: Reference, generator: np.random.Generator) -> np.ndarray:
    mean_N111 = x_NCHW.mean(axis=(1, 2, 3), keepdims=True)
    flat: np.ndarray = mean_N111 + _CONTRAST * (x_NCHW - mean_N111)
    return flat


def _feature_noise(x_NF: np.ndarray, reference: Reference, generator: np.random.Generator) -> np.ndarray:
    deviation_F = reference.x.std(axis=0, dtype=np.float64)
    noisy: np.ndarray = x_NF + _FEATURE_NOISE * deviation_F * generator.standard_normal(x_NF.shape)
    return noisy


def _missing_values(x_NF: np.ndarray, reference: Reference, generator: np.random.Generator) -> np.ndarray:
    lost_NF = generator.random(x_NF.shape) < _MISSING
    return np.where(lost_NF, np.median(reference.x, axis=0), x_NF)


def _typos(x_NT: np.ndarray, reference: Reference, generator: np.random.Generator) -> np.ndarray:
    assert reference.tokenizer is not None, "`suite` offers typos to texts only"
    texts = decode(x_NT, reference.tokenizer)
    return encode([mistyped(text, generator) for text in texts], reference.tokenizer)


def mistyped(text: str, generator: np.random.Generator) -> str:
    """Return the text with typos in a tenth of its longer words: two letters swapped, one lost, doubled or mishit.

    The first letter of a word stays, as people see to it most.
    """
    return " ".join(
        _misspelt(word, generator) if len(word) >= 4 and generator.random() < _TYPOS else word
        for word in text.split(" ")
    )


def _misspelt(word: str, generator: np.random.Generator) -> str:
    place = int(generator.integers(1, len(word) - 1))
    letter, after = word[place], word[place + 1]
    wrong = ("".join((after, letter)), after, letter + letter + after, _neighbour(letter, generator) + after)
    return word[:place] + wrong[int(generator.integers(len(wrong)))] + word[place + 2 :]


def _neighbour(letter: str, generator: np.random.Generator) -> str:
    """Return a key beside the letter's; what is on no row of letters is typed twice."""
    for row in _KEYBOARD_ROWS:
        place = row.find(letter.lower())
        if place >= 0:
            near = row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
            return near[int(generator.integers(len(near)))]
    return letter + letter


def _value_range(reference: Reference) -> tuple[float, float]:
    return float(reference.x.min()), float(reference.x.max())


_IMAGES: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "brightness": _brightness,
    "contrast": _contrast,
}
_TABLES: dict[str, Corruption] = {"feature_noise": _feature_noise, "missing_values": _missing_values}
_TEXTS: dict[str, Corruption] = {"typos": _typos}
