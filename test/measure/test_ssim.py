"""SSIM by its published definition, window by window."""

import numpy as np
import pytest

from saccade_ros.measure.ssim import ssim


def grey_pictures(seed: int, height: int = 17, width: int = 15) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 3, height, width)).astype(np.float32)


def by_definition(pictures: np.ndarray, references: np.ndarray) -> float:
    """Weighted mean, variance and covariance of every window, as the paper writes them."""
    places = np.arange(11) - 5
    weights = np.exp(-(places[:, None] ** 2 + places[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for one, other in zip(pictures.astype(float), references.astype(float), strict=True):
        x, y = (0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2] for p in (one, other))
        for row in range(x.shape[0] - 10):
            for column in range(x.shape[1] - 10):
                a, b = (p[row : row + 11, column : column + 11] for p in (x, y))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
                brightness = (2 * mean_a * mean_b + 2.55**2) / (mean_a**2 + mean_b**2 + 2.55**2)
                values.append(brightness * (2 * covariance + 7.65**2) / (var_a + var_b + 7.65**2))
    return float(np.mean(values))


def test_ssim_is_that_of_the_paper():
    pictures = grey_pictures(0)
    for references in (grey_pictures(1), 0.6 * pictures + 0.4 * grey_pictures(1), pictures + 20):
        assert ssim(pictures, references.astype(np.float32)) == pytest.approx(
            by_definition(pictures, references), abs=1e-6
        )


def test_equal_pictures_have_one():
    assert ssim(grey_pictures(0), grey_pictures(0)) == 1.0


def test_pictures_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="smaller than the window of SSIM, 11"):
        ssim(grey_pictures(0, width=10), grey_pictures(0, width=10))
