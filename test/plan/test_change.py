"""Change and novelty by hand."""

import numpy as np
import pytest

from saccade_ros.plan.change import (
    NOISE_MARGIN,
    SCALE_FLOOR,
    combine,
    common_change,
    patch_scale,
    relative_change,
    top_mean,
)

NO_LEVELS = np.zeros((0, 2), np.float32)


def array(*rows: object) -> np.ndarray:
    return np.array(rows, np.float32)


def test_scale_is_the_patch_the_mean_or_the_floor():
    assert patch_scale(array(1, 81), white_response=0.0).tolist() == [5, 9]
    assert patch_scale(array(1, 81), white_response=6 / SCALE_FLOOR).tolist() == [6, 9]
    assert patch_scale(array(0, 0), white_response=10.0) == pytest.approx(10 * SCALE_FLOOR)


def test_change_is_what_exceeds_the_noise_relative_to_the_scale():
    change = relative_change(array(4 + NOISE_MARGIN, 0.5), noise=array(1, 1), scale=array(4, 4))
    assert change.tolist() == [0.5, 0.0]


def test_top_is_the_mean_of_the_most_changed_share_and_at_least_one_patch():
    change = array(0, 4, 1, 2)
    assert [top_mean(change, fraction) for fraction in (0.0, 0.25, 0.5, 1.0)] == [4, 4, 3, 1.75]


def test_top_and_common_change_weigh_half_each():
    assert combine(top=0.4, common=0.1) == pytest.approx(0.5 * 0.4 + 0.5 * 6 * 0.1)


def test_common_change_is_the_length_of_the_mean_compensated_for_illumination():
    reference, gain = array([2, 0], [2, 0]), array([0.5])
    assert common_change(array(4, 4), reference, NO_LEVELS, gain) == pytest.approx(5)  # |(4 - 1, 4)|
    level = array([0.5, 2.0])
    assert common_change(array(4, 4), reference, array([0, 2]), level) == pytest.approx(3)  # |(4 - 1, 4 - 4)|
