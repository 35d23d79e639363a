"""A projection keeps cosines, is scaled, and comes back from its file as it was."""

import numpy as np
import pytest

from saccade_ros.train.projection import Projection, fit_projection
from saccade_ros.train.teachers import TeacherError


def low_dimensional(count: int = 200, channels: int = 24, rank: int = 4) -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.normal(size=(count, rank)) @ random.normal(size=(rank, channels)) + 3).astype(np.float32)


def cosines(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / lengths) @ (vectors / lengths).T


def test_components_keep_the_centred_cosines_of_data_in_few_dimensions():
    features = low_dimensional()
    projected = fit_projection("pca", features, 4, 0)(features)
    assert projected.shape == (200, 4)
    assert cosines(projected) == pytest.approx(cosines(features - features.mean(axis=0)), abs=1e-3)


def test_components_are_in_order_of_their_variance():
    features = low_dimensional()
    variances = fit_projection("pca", features, 6, 0)(features).var(axis=0)
    assert (np.diff(variances) <= 1e-6).all()
    assert variances[4:].max() < 1e-6


def test_components_point_where_their_largest_entry_is_positive():
    """Else a library's sign would decide the cache's bytes."""
    matrix = fit_projection("pca", low_dimensional(), 4, 0).matrix
    assert (matrix[np.abs(matrix).argmax(axis=0), np.arange(4)] > 0).all()


def test_random_directions_are_orthonormal_but_for_the_scale():
    projection = fit_projection("random", low_dimensional(), 8, 5)
    gram = projection.matrix.T @ projection.matrix
    assert gram / gram[0, 0] == pytest.approx(np.eye(8), abs=1e-5)
    again, other = (fit_projection("random", low_dimensional(), 8, seed).matrix for seed in (5, 6))
    assert np.array_equal(again, projection.matrix)
    assert not np.allclose(other, projection.matrix)


def test_no_projection_keeps_every_channel_and_all_cosines():
    features = low_dimensional()
    projected = fit_projection("none", features, 3, 0)(features)
    assert projected.shape == features.shape
    assert cosines(projected) == pytest.approx(cosines(features - features.mean(axis=0)), abs=1e-5)


@pytest.mark.parametrize("kind", ["pca", "random", "none"])
def test_mean_square_of_what_it_was_fitted_to_is_one(kind):
    features = 40 * low_dimensional()
    projected = fit_projection(kind, features, 4, 0)(features)
    assert np.square(projected).mean() == pytest.approx(1, rel=1e-3)
    assert np.abs(projected.mean(axis=0)).max() < 1e-3


def test_features_that_never_change_give_finite_targets():
    features = np.ones((20, 6), np.float32)
    assert np.isfinite(fit_projection("pca", features, 3, 0)(features)).all()


def test_too_few_features_or_channels_are_refused_with_both_numbers():
    with pytest.raises(TeacherError, match="8 features are too few for 8 components: give more clips or views"):
        fit_projection("pca", low_dimensional(8), 8, 0)
    for kind in ("pca", "random"):
        with pytest.raises(TeacherError, match="--width is 25, the teacher has 24 channels: give at most as many"):
            fit_projection(kind, low_dimensional(), 25, 0)


def test_saved_projection_is_the_same_and_so_are_its_bytes(tmp_path):
    projection = fit_projection("pca", low_dimensional(), 4, 0)
    projection.save(tmp_path / "a.safetensors")
    loaded = Projection.load(tmp_path / "a.safetensors")
    assert np.array_equal(loaded.mean, projection.mean)
    assert np.array_equal(loaded.matrix, projection.matrix)
    loaded.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_damaged_projection_is_refused_with_the_remedy(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"nothing")
    with pytest.raises(TeacherError, match=r"a\.safetensors cannot be read .*another folder"):
        Projection.load(file)
