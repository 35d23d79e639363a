"""Illumination by hand, and what no change of it must be able to do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade_ros.plan.illumination import LARGEST_GAIN, Compensated, compensate, illumination_gram, normal_equations

NO_LEVELS = np.zeros((0, 2), np.float32)


def array(*rows: object) -> np.ndarray:
    return np.array(rows, np.float32)


def compensated(difference: np.ndarray, reference: np.ndarray, uniform: np.ndarray, rows: int) -> Compensated:
    gram = illumination_gram(reference, uniform)
    return compensate(normal_equations(difference, reference, uniform, gram), rows)


def test_normal_equations_by_hand():
    difference, reference, uniform = array([1, 2], [0, 3]), array([4, 0], [1, 1]), array([1, 1])
    gram = illumination_gram(reference, uniform)
    assert gram.tolist() == [[[16, 4], [4, 2]], [[2, 2], [2, 2]]]
    equations = normal_equations(difference, reference, uniform, gram)
    assert equations.energy.tolist() == [5, 9]
    assert equations.products.tolist() == [[4, 3], [3, 3]]


def test_gain_is_fitted_by_least_squares():
    reference = array([2, 0], [2, 0])
    brighter = compensated(array([1, 0], [1, 0]), reference, NO_LEVELS, rows=1)
    assert brighter.illumination == pytest.approx(0.5, rel=1e-4)  # gain 1.5
    assert brighter.energy == pytest.approx([0, 0], abs=1e-5)
    across = compensated(array([0, 1], [0, 1]), reference, NO_LEVELS, rows=1)
    assert across.illumination == pytest.approx(0.0)
    assert across.energy == pytest.approx([1, 1])


def test_gain_beyond_a_factor_of_two_is_change():
    reference = array([2, 0], [2, 0])
    left = compensated(2 * reference, reference, NO_LEVELS, rows=1)  # three times as bright
    assert left.illumination == pytest.approx(LARGEST_GAIN - 1)
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
    left = compensated(difference.astype(np.float32), reference, uniform, rows=8)
    assert np.sqrt(left.energy).max() < 0.02 * np.linalg.norm(reference, axis=1).mean()


@settings(max_examples=50, deadline=None)
@given(gain=st.floats(-0.4, 0.8), covered=st.sets(st.integers(0, 7), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_object_in_less_than_half_of_a_row_is_neither_explained_nor_spread(gain, covered, seed):
    rng = np.random.default_rng(seed)
    reference, uniform = rng.normal(0, 1, (64, 96)).astype(np.float32), rng.normal(0, 1, (3, 96)).astype(np.float32)
    difference = gain * reference
    changed = [8 * 3 + column for column in covered]
    difference[changed] += rng.normal(0, 1.5, (len(changed), 96))
    change = np.sqrt(compensated(difference.astype(np.float32), reference, uniform, rows=8).energy)
    quiet = np.delete(change, changed)
    assert change[changed].min() > 10
    assert quiet.max() < 0.5


def test_compensation_never_adds_change():
    rng = np.random.default_rng(0)
    for _ in range(20):
        difference, reference = rng.normal(0, 1, (2, 16, 8)).astype(np.float32)
        uniform = rng.normal(0, 1, (3, 8)).astype(np.float32)
        left = compensated(difference, reference, uniform, rows=4).energy
        assert (left <= (difference**2).sum(axis=1) * (1 + 1e-5)).all()


def test_black_reference_and_identical_pictures_are_no_trouble():
    black, uniform = np.zeros((16, 8), np.float32), np.eye(3, 8, dtype=np.float32)
    assert compensated(black, black, uniform, rows=4).energy.tolist() == [0.0] * 16
    assert np.isfinite(compensated(black + 1, black, uniform, rows=4).energy).all()
