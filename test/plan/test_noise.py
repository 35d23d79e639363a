"""Noise told from motion."""

import numpy as np
import pytest

from saccade_ros.plan.noise import CEILING, PatchNoise

SCALE = np.full(40, 10.0, np.float32)


def learn(pictures: list[np.ndarray]) -> np.ndarray:
    noise = PatchNoise(pictures[0])
    for picture in pictures[1:]:
        noise.learn(picture, SCALE)
    return noise.energy


def test_noise_is_found_in_size():
    rng = np.random.default_rng(0)
    found = learn([rng.normal(0, 0.1, (40, 50)).astype(np.float32) for _ in range(200)])
    assert found.mean() == pytest.approx(2 * 0.1**2 * 50, rel=0.15)


def test_steady_motion_is_no_noise():
    step = np.random.default_rng(0).normal(0, 0.1, (40, 50)).astype(np.float32)
    assert learn([t * step for t in range(100)]).max() <= 1e-4


def test_what_is_too_strong_for_noise_counts_up_to_the_ceiling():
    rng = np.random.default_rng(0)
    found = learn([rng.normal(0, 5, (40, 50)).astype(np.float32) for _ in range(200)])
    assert found.max() <= (CEILING * 10) ** 2 + 1e-3
