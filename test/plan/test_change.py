"""Change by hand."""

import numpy as np
import pytest

from saccade_ros.plan.change import NOISE_MARGIN, outstanding_change, patch_scale, relative_change


def array(*rows: object) -> np.ndarray:
    return np.array(rows, np.float32)


def test_scale_is_the_patch_the_mean_or_the_floor():
    assert patch_scale(array(1, 81), white_response=0.0).tolist() == [5, 9]
    assert patch_scale(array(1, 81), white_response=6).tolist() == [6, 9]
    assert patch_scale(array(0, 0), white_response=10.0).tolist() == [10, 10]


def test_change_is_what_exceeds_the_noise_relative_to_the_scale():
    change = relative_change(array(4 + NOISE_MARGIN, 0.5), noise=array(1, 1), scale=array(4, 4))
    assert change.tolist() == [0.5, 0.0]


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 4), (0.2, 4), (0.4, 3), (1.0, 1.4)])
def test_outstanding_change_is_that_of_the_top_share_and_at_least_one_patch(fraction, expected):
    assert outstanding_change(array(0, 4, 0, 2, 1), fraction) == pytest.approx(expected - 1)


def test_change_that_all_patches_share_does_not_stand_out():
    assert outstanding_change(array(0.7, 0.7, 0.7), 0.03) == 0
