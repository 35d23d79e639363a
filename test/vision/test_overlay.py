"""Patches back on the picture: where they lie, for each way a picture becomes square."""

import numpy as np
import pytest

from saccade_ros.frames import View
from saccade_ros.vision.overlay import OUTLINE, changed_region, computed_overlay, novelty_overlay
from saccade_ros.vision.preprocess import resize_to_square, view_of

WHOLE = View(0.0, 0.0, 80.0, 160.0)


def novelty_at(*patches: tuple[int, int]) -> np.ndarray:
    novelty = np.zeros((8, 8), np.float32)
    for patch in patches:
        novelty[patch] = 0.5
    return novelty


def test_stretched_view_is_the_whole_picture():
    assert view_of(480, 640, 256, "stretch") == View(0, 0, 480, 640)


def test_cropped_view_is_the_centre_by_hand():
    """292 px for the shorter side of 480, of which 256 are kept: 420.8 picture pixels."""
    view = view_of(480, 640, 256, "crop")
    assert view.height == pytest.approx(256 * 480 / 292)
    assert view.top == pytest.approx(18 * 480 / 292)
    assert view.left == pytest.approx((389 - 256) // 2 * 640 / 389)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (272, 640), (300, 1200), (1200, 300), (256, 256)])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_what_lies_in_a_patch_of_the_view_is_what_the_encoder_sees_there(height, width, fit):
    """A white block drawn where the view says a patch is makes that patch of the input white, and no other."""
    view, size, patch = view_of(height, width, 128, fit), 128, (5, 2)
    down, right = view.height / 8, view.width / 8
    picture = np.zeros((height, width, 3), np.uint8)
    top, left = view.top + patch[0] * down, view.left + patch[1] * right
    picture[round(top) : round(top + down), round(left) : round(left + right)] = 255
    viewed = resize_to_square(picture, size, fit).mean(axis=2).reshape(8, 16, 8, 16).mean(axis=(1, 3))
    assert viewed[patch] > 200
    viewed[patch] = 0
    assert viewed.max() < 50


def test_region_is_the_box_around_what_changed_enough():
    assert changed_region(novelty_at((2, 1), (4, 3)), WHOLE, 0.5) == (20, 20, 60, 30)
    assert changed_region(novelty_at((0, 0)), View(10.5, 20.25, 80, 80), 0.5) == (20, 10, 11, 11)


def test_region_is_the_view_where_no_patch_reached_tau_alone():
    assert changed_region(novelty_at(), WHOLE, 0.5) == (0, 0, 160, 80)


def test_overlay_tints_changed_patches_and_leaves_the_rest():
    picture = np.full((80, 160, 3), 100, np.uint8)
    out = novelty_overlay(picture, novelty_at((2, 1)), WHOLE, 0.5)
    assert out[25, 30].tolist() == [193, 40, 40]
    assert out[45, 30].tolist() == [100, 100, 100]
    assert (picture == 100).all(), "the original is untouched"
    assert out.shape == picture.shape


def test_overlay_survives_a_view_larger_than_the_picture_and_no_full_strength():
    out = novelty_overlay(np.zeros((7, 5, 3), np.uint8), novelty_at((1, 1)), View(0, 0, 7.4, 5.4), 0.0)
    assert out.shape == (7, 5, 3)


def outlined(picture: np.ndarray) -> np.ndarray:
    return (picture == OUTLINE).all(axis=2)


def test_computed_neighbours_share_one_outline_and_the_picture_stays():
    """Patches are 10 pixels high and 20 wide."""
    picture, computed = np.full((80, 160, 3), 100, np.uint8), np.zeros((8, 8), bool)
    computed[2, 1:3] = True
    out = computed_overlay(picture, computed, WHOLE)
    expected = np.zeros((80, 160), bool)
    expected[20:30, 20:60] = True
    expected[21:29, 21:59] = False
    assert np.array_equal(outlined(out), expected)
    assert (out[~expected] == 100).all()
    assert (picture == 100).all(), "the original is untouched"


def test_computed_outline_is_around_the_view_of_a_dense_step_and_absent_where_all_is_reused():
    picture, view = np.zeros((80, 160, 3), np.uint8), View(0.0, 40.0, 80.0, 80.0)
    dense = outlined(computed_overlay(picture, np.ones((8, 8), bool), view))
    assert dense.sum() == 4 * 79
    assert dense[0, 40:120].all()
    assert dense[:, 119].all()
    assert np.array_equal(computed_overlay(picture, np.zeros((8, 8), bool), view), picture)


def test_outline_is_as_wide_in_a_large_picture_for_the_eye():
    computed = np.zeros((8, 8), bool)
    computed[2, 1] = True
    assert (
        outlined(computed_overlay(np.zeros((1080, 1920, 3), np.uint8), computed, View(0, 0, 1080, 1920))).sum() > 3000
    )
