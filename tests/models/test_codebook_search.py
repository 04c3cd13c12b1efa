import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.models.codebook import Codebook
from tasks.models.codebook_search import codebook_of, rescaled

GENERATOR = np.random.default_rng(0)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    num_values=st.integers(1, 40),
    dtype=st.sampled_from([np.float32, np.int8]),
    data=st.data(),
)
def test_codebook_of_decodes_to_the_very_values(seed, shape, num_values, dtype, data):
    generator = np.random.default_rng(seed)
    values = generator.integers(-60, 60, num_values).astype(dtype)[generator.integers(0, num_values, shape)]
    axis = data.draw(st.integers(0, len(shape) - 1))
    book = codebook_of(values, axis)
    if len(np.unique(values)) <= 16:
        assert book is not None
        assert len(book.values_GK) == 1
    if book is not None:
        np.testing.assert_array_equal(book.decoded(), values)
        assert book.values_GK.dtype == values.dtype


@pytest.mark.parametrize("axis", [0, 1])
def test_codebook_of_groups_channels_when_their_union_is_too_large_for_four_bits(axis):
    first, second = np.arange(16, dtype=np.int8), np.arange(16, 32, dtype=np.int8)
    rows = np.stack([GENERATOR.permutation(np.tile(each, 4)) for each in (first, second, first, second)])
    book = codebook_of(np.moveaxis(rows, 0, axis), axis)
    assert book.values_GK.shape == (2, 16)
    assert book.groups_O.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(book.decoded(), np.moveaxis(rows, 0, axis))


def test_codebook_of_flips_of_one_codebook_makes_two_groups():
    values = np.array([-127, -64, -20, -3, 0, 8, 15, 30, 44, 61, 70, 82, 95, 101, 119, 127], np.int8)
    signs = np.array([1, -1, -1, 1, -1], np.int8)
    rows = signs[:, None] * values[GENERATOR.integers(0, 16, (5, 200))]
    book = codebook_of(rows, 0)
    assert book.values_GK.shape[0] == 2
    assert book.groups_O.tolist() == [0, 1, 1, 0, 1]


def test_codebook_of_takes_eight_bits_when_floats_have_up_to_256_values():
    values = GENERATOR.normal(size=200).astype(np.float32)[GENERATOR.integers(0, 200, (40, 50))]
    assert codebook_of(values, 0).values_GK.shape == (1, len(np.unique(values)))


@pytest.mark.parametrize(
    "values",
    [
        GENERATOR.normal(size=(40, 50)).astype(np.float32),
        GENERATOR.integers(-127, 128, (4, 300)).astype(np.int8),
        np.array([[1.0, np.nan], [1.0, 2.0]], np.float32),
    ],
    ids=["many floats", "many integers", "not finite"],
)
def test_codebook_of_is_none_when_there_is_no_short_form(values):
    assert codebook_of(values, 0) is None


def known_book() -> Codebook:
    return Codebook(
        values_GK=GENERATOR.normal(size=(2, 16)).astype(np.float32),
        indices=GENERATOR.integers(0, 16, (6, 30)).astype(np.uint8),
        groups_O=np.array([0, 0, 0, 1, 1, 1]),
        scales_O=GENERATOR.uniform(0.5, 2.0, 6).astype(np.float32),
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_rescaled_finds_the_factors_of_the_channels(transposed):
    book = known_book()
    factors = np.array([3.0, -0.5, 1e-3, 0.0, 7.0, 1.0], np.float32)
    folded = (book.decoded() * factors[:, None]).astype(np.float32)
    found = rescaled(folded.T if transposed else folded, book)
    np.testing.assert_allclose(found.scales_O, book.scales_O * factors, rtol=1e-6)
    np.testing.assert_allclose(found.decoded(), folded.T if transposed else folded, rtol=2e-6)


def test_rescaled_needs_no_scales_when_the_values_are_the_codebook_s():
    book = known_book()
    found = rescaled(book.unscaled(), book)
    assert found.scales_O is None
    np.testing.assert_array_equal(found.decoded(), book.unscaled())


def test_rescaled_is_none_when_the_weight_is_another():
    book = known_book()
    changed = book.decoded()
    changed[2, 3] *= 1.0001
    assert rescaled(changed, book) is None
    assert rescaled(book.decoded()[:5], book) is None
    dead = Codebook(np.zeros((1, 2), np.float32), np.zeros((2, 3), np.uint8), np.zeros(2, np.int64))
    assert rescaled(np.ones((2, 3), np.float32), dead) is None
