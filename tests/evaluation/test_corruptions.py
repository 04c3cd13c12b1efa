import numpy as np
import pytest

from tasks.datasets.tokenization import TrainTokenizer, encode, train_tokenizer
from tasks.evaluation.corruptions import Reference, corrupt, mistyped, suite

IMAGES = np.random.default_rng(0).random((200, 3, 8, 8), dtype=np.float32)
TABLE = (np.random.default_rng(1).standard_normal((4000, 3)) * (1, 10, 100) + (0, 5, 50)).astype(np.float32)
TEXTS = ["please play the loudest music", "what is the weather like tomorrow morning"] * 40


def corrupted(x: np.ndarray, name: str, reference: np.ndarray | None = None) -> np.ndarray:
    corruption = suite(x.shape[1:], x.dtype.name, is_text=False)[name]
    return corrupt(name, corruption, x, Reference(x if reference is None else reference))


@pytest.mark.parametrize(
    ("shape", "dtype", "is_text", "names"),
    [
        ((1, 28, 28), "float32", False, ["gaussian_noise", "impulse_noise", "gaussian_blur", "brightness", "contrast"]),
        ((8,), "float32", False, ["feature_noise", "missing_values"]),
        ((32,), "int64", True, ["typos"]),
        ((32,), "int64", False, []),
        ((4, 8), "float32", False, []),
    ],
)
def test_suite_offers_what_suits_the_rows(shape, dtype, is_text, names):
    assert list(suite(shape, dtype, is_text=is_text)) == names


@pytest.mark.parametrize("name", suite((3, 8, 8), "float32", is_text=False))
def test_corrupt_changes_images_within_the_range_of_values_and_always_alike(name):
    images = corrupted(IMAGES, name)
    assert (images.shape, images.dtype) == (IMAGES.shape, IMAGES.dtype)
    assert 0.01 < np.abs(images - IMAGES).mean() < 0.3
    assert IMAGES.min() <= images.min()
    assert images.max() <= IMAGES.max()
    np.testing.assert_array_equal(images, corrupted(IMAGES, name))


def test_gaussian_noise_has_the_stated_deviation_of_the_references_range():
    grey = np.full((50, 1, 28, 28), 4.0, dtype=np.float32)
    noise = corrupted(grey, "gaussian_noise", reference=np.array([0.0, 10.0], dtype=np.float32)) - grey
    assert noise.std() == pytest.approx(0.8, rel=0.02)


def test_impulse_noise_loses_whole_pixels():
    images = corrupted(IMAGES, "impulse_noise", reference=np.array([-1.0, 2.0], dtype=np.float32))
    hit = (images != IMAGES).any(axis=1)
    assert hit.mean() == pytest.approx(0.03, abs=0.01)
    values = images.transpose(0, 2, 3, 1)[hit]
    assert set(np.unique(values)) == {-1.0, 2.0}
    assert (values == values[:, :1]).all()


def test_gaussian_blur_keeps_channels_and_images_apart():
    images = np.zeros((2, 2, 9, 9), dtype=np.float32)
    images[0, 0, 4, 4] = 1.0
    blurred = corrupted(images, "gaussian_blur")
    assert blurred[0, 0].sum() == pytest.approx(1.0, abs=1e-4)
    assert 0.2 < blurred[0, 0, 4, 4] < 0.5
    assert not blurred[0, 1].any()
    assert not blurred[1].any()


def test_contrast_and_brightness_equal_the_case_by_hand():
    image = np.array([0.0, 0.0, 0.4, 0.8], dtype=np.float32).reshape(1, 1, 2, 2)
    reference = np.array([0.0, 1.0], dtype=np.float32)
    np.testing.assert_allclose(corrupted(image, "contrast", reference).ravel(), [0.15, 0.15, 0.35, 0.55], atol=1e-6)
    np.testing.assert_allclose(corrupted(image, "brightness", reference).ravel(), [0.15, 0.15, 0.55, 0.95], atol=1e-6)


def test_feature_noise_follows_each_features_own_spread():
    noise = corrupted(TABLE, "feature_noise") - TABLE
    np.testing.assert_allclose(noise.std(axis=0), 0.1 * TABLE.std(axis=0), rtol=0.05)


def test_missing_values_become_the_references_median():
    table = corrupted(TABLE, "missing_values", reference=np.array([[1, 2, 3], [1, 2, 3]], dtype=np.float32))
    lost = table != TABLE
    assert lost.mean() == pytest.approx(0.1, abs=0.01)
    assert (table[lost] == np.broadcast_to([1, 2, 3], table.shape)[lost]).all()


def test_typos_change_some_rows_of_token_ids_within_the_vocabulary():
    tokenizer = train_tokenizer(TEXTS, TrainTokenizer(vocab_size=60, min_frequency=1, max_length=40))
    rows = encode(TEXTS, tokenizer)
    corruption = suite(rows.shape[1:], rows.dtype.name, is_text=True)["typos"]
    typed = corrupt("typos", corruption, rows, Reference(rows, tokenizer))
    assert (typed.shape, typed.dtype) == (rows.shape, rows.dtype)
    changed = (typed != rows).any(axis=1).mean()
    assert 0.15 < changed < 0.85  # of three or five longer words, each is mistyped with one chance in ten
    np.testing.assert_array_equal(typed, corrupt("typos", corruption, rows, Reference(rows, tokenizer)))


def test_mistyped_spares_short_words_and_first_letters():
    generator = np.random.default_rng(3)
    text = "the big cat saw me sleeping soundly"
    seen = {mistyped(text, generator) for _ in range(500)}
    assert text in seen
    assert len(seen) > 10
    assert all(one.startswith("the big cat saw me s") for one in seen)
    assert all(one.split(" ")[6].startswith("s") for one in seen)
    lengths = {len(one) - len(text) for one in seen}
    assert lengths <= {-2, -1, 0, 1, 2}
    assert {-1, 0, 1} <= lengths


def test_mistyped_passes_what_it_cannot_read():
    generator = np.random.default_rng(4)
    assert mistyped("", generator) == ""
    for _ in range(200):
        assert len(mistyped("1234567 日本語日本語 e-mail", generator).split(" ")) == 3
