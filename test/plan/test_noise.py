"""The noise estimate: how it starts, moves and is bounded."""

import numpy as np
import pytest

from saccade_ros.plan.noise import NOISE_CEILING, NOISE_FLOOR, NOISE_RATE, bound_noise, first_noise, track_noise


def array(*rows: object) -> np.ndarray:
    return np.array(rows, np.float32)


def test_noise_moves_by_its_rate_towards_the_new_value_however_far_it_is():
    noise, scale = array(1, 1, 1), array(10, 10, 10)
    moved = track_noise(noise, array(1.1, 1e9, 0), scale)
    assert moved == pytest.approx([np.exp(NOISE_RATE), np.exp(NOISE_RATE), np.exp(-NOISE_RATE)])


def test_noise_finds_the_median():
    rng, noise, scale = np.random.default_rng(0), array(20), array(100)
    for _ in range(400):
        noise = track_noise(noise, rng.chisquare(3, 1).astype(np.float32), scale)
    assert noise[0] == pytest.approx(2.37, rel=0.4)  # median of chi-squared with 3 degrees of freedom


def test_noise_starts_at_no_more_than_that_of_half_of_the_patches():
    assert first_noise(array(1, 1, 2, 50), array(10, 10, 10, 10)).tolist() == [1, 1, 1.5, 1.5]


def test_noise_stays_between_floor_and_ceiling():
    scale = array(10, 10)
    low, high = bound_noise(array(0, 1e9), scale)
    assert (low, high) == pytest.approx((100 * NOISE_FLOOR**2, 100 * NOISE_CEILING**2))
