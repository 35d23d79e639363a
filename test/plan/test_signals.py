"""Each signal by hand, and what light and noise must not be able to do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade_ros.plan.signals import (
    LARGEST_GAIN,
    NOISE_CEILING,
    NOISE_FLOOR,
    NOISE_MARGIN,
    NOISE_RATE,
    SCALE_FLOOR,
    bound_noise,
    combine,
    common_change,
    first_noise,
    light_evidence,
    light_gram,
    patch_scale,
    relative_change,
    remove_light,
    top_mean,
    track_noise,
)

NO_LEVELS = np.zeros((0, 2), np.float32)


def array(*rows: object) -> np.ndarray:
    return np.array(rows, np.float32)


def unlit(difference: np.ndarray, reference: np.ndarray, uniform: np.ndarray, rows: int):
    return remove_light(light_evidence(difference, reference, uniform, light_gram(reference, uniform)), rows)


def test_evidence_and_gram_by_hand():
    difference, reference, uniform = array([1, 2], [0, 3]), array([4, 0], [1, 1]), array([1, 1])
    gram = light_gram(reference, uniform)
    assert gram.tolist() == [[[16, 4], [4, 2]], [[2, 2], [2, 2]]]
    evidence = light_evidence(difference, reference, uniform, gram)
    assert evidence.energy.tolist() == [5, 9]
    assert evidence.along.tolist() == [[4, 3], [3, 3]]


def test_gain_is_fitted_by_least_squares():
    reference = array([2, 0], [2, 0])
    brighter = unlit(array([1, 0], [1, 0]), reference, NO_LEVELS, rows=1)
    assert brighter.light == pytest.approx(0.5, rel=1e-4)  # gain 1.5
    assert brighter.energy == pytest.approx([0, 0], abs=1e-5)
    across = unlit(array([0, 1], [0, 1]), reference, NO_LEVELS, rows=1)
    assert across.light == pytest.approx(0.0)
    assert across.energy == pytest.approx([1, 1])


def test_gain_beyond_a_factor_of_two_is_news():
    reference = array([2, 0], [2, 0])
    left = unlit(2 * reference, reference, NO_LEVELS, rows=1)  # three times as bright
    assert left.light == pytest.approx(LARGEST_GAIN - 1)
    assert left.energy == pytest.approx([(4 - 2) ** 2] * 2)


@settings(max_examples=50, deadline=None)
@given(
    gains=st.lists(st.floats(-0.45, 0.9), min_size=8, max_size=8),
    levels=st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_gain_and_level_of_each_row_are_no_change(gains, levels, seed):
    """Exposure, white balance and the bands of a rolling shutter."""
    rng = np.random.default_rng(seed)
    reference, uniform = rng.normal(0, 1, (64, 96)).astype(np.float32), rng.normal(0, 1, (3, 96)).astype(np.float32)
    difference = np.repeat(gains, 8)[:, None] * reference + levels @ uniform
    left = unlit(difference.astype(np.float32), reference, uniform, rows=8)
    assert np.sqrt(left.energy).max() < 0.02 * np.linalg.norm(reference, axis=1).mean()


@settings(max_examples=50, deadline=None)
@given(gain=st.floats(-0.4, 0.8), covered=st.sets(st.integers(0, 7), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_object_in_less_than_half_of_a_row_is_neither_explained_nor_spread(gain, covered, seed):
    rng = np.random.default_rng(seed)
    reference, uniform = rng.normal(0, 1, (64, 96)).astype(np.float32), rng.normal(0, 1, (3, 96)).astype(np.float32)
    difference = gain * reference
    changed = [8 * 3 + column for column in covered]
    difference[changed] += rng.normal(0, 1.5, (len(changed), 96))
    change = np.sqrt(unlit(difference.astype(np.float32), reference, uniform, rows=8).energy)
    quiet = np.delete(change, changed)
    assert change[changed].min() > 10
    assert quiet.max() < 0.5


def test_light_never_adds_change():
    rng = np.random.default_rng(0)
    for _ in range(20):
        difference, reference = rng.normal(0, 1, (2, 16, 8)).astype(np.float32)
        uniform = rng.normal(0, 1, (3, 8)).astype(np.float32)
        left = unlit(difference, reference, uniform, rows=4).energy
        assert (left <= (difference**2).sum(axis=1) * (1 + 1e-5)).all()


def test_black_reference_and_identical_pictures_are_no_trouble():
    black, uniform = np.zeros((16, 8), np.float32), np.eye(3, 8, dtype=np.float32)
    assert unlit(black, black, uniform, rows=4).energy.tolist() == [0.0] * 16
    assert np.isfinite(unlit(black + 1, black, uniform, rows=4).energy).all()


def test_common_change_is_the_length_of_the_mean_without_its_light():
    reference, light = array([2, 0], [2, 0]), array([0.5])
    assert common_change(array(4, 4), reference, NO_LEVELS, light) == pytest.approx(5)  # |(4 - 1, 4)|
    level = array([0.5, 2.0])
    assert common_change(array(4, 4), reference, array([0, 2]), level) == pytest.approx(3)  # |(4 - 1, 4 - 4)|


def test_scale_is_the_patch_the_mean_or_the_floor():
    assert patch_scale(array(1, 81), white_response=0.0).tolist() == [5, 9]
    assert patch_scale(array(1, 81), white_response=6 / SCALE_FLOOR).tolist() == [6, 9]
    assert patch_scale(array(0, 0), white_response=10.0) == pytest.approx(10 * SCALE_FLOOR)


def test_change_is_what_exceeds_the_noise_relative_to_the_scale():
    change = relative_change(array(4 + NOISE_MARGIN, 0.5), noise=array(1, 1), scale=array(4, 4))
    assert change.tolist() == [0.5, 0.0]


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


def test_top_is_the_mean_of_the_most_changed_share_and_at_least_one_patch():
    change = array(0, 4, 1, 2)
    assert [top_mean(change, share) for share in (0.0, 0.25, 0.5, 1.0)] == [4, 4, 3, 1.75]


def test_top_and_common_change_weigh_half_each():
    assert combine(top=0.4, common=0.1) == pytest.approx(0.5 * 0.4 + 0.5 * 6 * 0.1)
