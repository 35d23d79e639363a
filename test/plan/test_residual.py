"""The canvas, its error, and the patches that mend it best."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_ros.plan.residual import largest, psnr, residual_energy, squared_error, tokens_within, update_canvas
from saccade_ros.vision.preprocess import normalize_all

PATCH = 4
energies = st.lists(st.integers(0, 50), min_size=1, max_size=7).map(lambda values: np.array(values, np.float32))


def grey_tubelet(seed: int) -> np.ndarray:
    """Grey levels (2, 8, 12, 3): two rows of three patches."""
    return np.random.default_rng(seed).integers(0, 256, (2, 8, 12, 3), np.uint8)


def squared_differences(one: np.ndarray, other: np.ndarray) -> list[float]:
    """Of each patch, by rows."""
    squares = (one.astype(float) - other) ** 2
    corners = [(row, column) for row in range(0, 8, PATCH) for column in range(0, 12, PATCH)]
    return [squares[:, row : row + PATCH, column : column + PATCH].sum() for row, column in corners]


def least_left(energy: np.ndarray, count: int) -> float:
    """The least that any choice of this many patches leaves."""
    return float(energy.sum()) - max(sum(chosen) for chosen in combinations(energy.tolist(), count))


def left(energy: np.ndarray, token_idx: np.ndarray) -> float:
    return float(energy.sum() - energy[token_idx].sum())


def test_energy_is_the_squared_error_of_each_patch_in_grey_levels():
    picture, shown = grey_tubelet(0), grey_tubelet(1)
    energy = residual_energy(normalize_all(picture), normalize_all(shown), PATCH)
    assert energy == pytest.approx(squared_differences(picture, shown), rel=1e-5)


def test_an_update_mends_its_patches_and_no_other():
    pixels, canvas = normalize_all(grey_tubelet(0)), normalize_all(grey_tubelet(1))
    before = residual_energy(pixels, canvas, PATCH)
    update_canvas(canvas, pixels, np.array([1, 5]), PATCH)
    assert residual_energy(pixels, canvas, PATCH) == pytest.approx(before * [1, 0, 1, 1, 1, 0])


@given(energies, st.data())
def test_no_other_choice_of_as_many_patches_leaves_less(energy, data):
    count = data.draw(st.integers(0, len(energy)))
    token_idx = largest(energy, count)
    assert len(token_idx) == count
    assert left(energy, token_idx) == least_left(energy, count)


@given(energies, st.floats(20, 60))
def test_the_psnr_is_reached_with_the_fewest_patches(energy, psnr_db):
    values = 2
    token_idx, allowed = tokens_within(energy, psnr_db, values), values * squared_error(psnr_db)
    assert left(energy, token_idx) <= allowed
    assert not len(token_idx) or least_left(energy, len(token_idx) - 1) > allowed


def test_choices_are_ascending_and_take_the_first_of_equal_patches():
    energy = np.array([1, 3, 3, 9, 0], np.float32)
    assert largest(energy, 2).tolist() == [1, 3]
    assert tokens_within(energy, psnr(4.0), values=1).tolist() == [1, 3]
    assert tokens_within(energy, psnr(3.9), values=1).tolist() == [1, 2, 3]
    assert largest(energy, 2).dtype == tokens_within(energy, 30.0, 1).dtype == np.int64


def test_a_canvas_that_is_just_within_the_psnr_needs_no_patch():
    allowed = squared_error(0.0)
    assert tokens_within(np.array([allowed], np.float32), 0.0, values=1).size == 0
    assert tokens_within(np.array([allowed + 1], np.float32), 0.0, values=1).size == 1


def test_a_canvas_that_shows_the_picture_needs_no_patch():
    pixels = normalize_all(grey_tubelet(0))
    energy = residual_energy(pixels, pixels.copy(), PATCH)
    assert tokens_within(energy, 300.0, pixels.size).size == 0


def test_psnr_of_a_mean_squared_error():
    assert psnr(1.0) == pytest.approx(48.13, abs=0.01)
    assert psnr(0.0) == float("inf")
    assert squared_error(psnr(7.0)) == pytest.approx(7.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(value):
    pixels = normalize_all(grey_tubelet(0))
    broken = pixels.copy()
    broken[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="not finite"):
        residual_energy(broken, pixels, PATCH)
