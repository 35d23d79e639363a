"""Structural similarity of pictures (SSIM): Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 13(4), 2004."""

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

WINDOW, SIGMA = 11, 1.5  # pixels; the paper's circular Gaussian
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # the paper's constants for grey levels of 0 to 255
LUMA = np.array((0.299, 0.587, 0.114))  # of red, green and blue, Rec. ITU-R BT.601

Grey = npt.NDArray[np.float64]


def ssim(pictures: npt.NDArray[np.float32], references: npt.NDArray[np.float32]) -> float:
    """Compute the mean structural similarity of RGB pictures to their references, by brightness; 1 = equal.

    The mean is over pictures and over all places where the whole window lies within the picture. As in the paper, the
    pictures are compared at their own size, not shrunk first.

    Args:
        pictures, references: grey levels of 0 to 255, (N, 3, H, W).

    Raises:
        ValueError: the pictures are smaller than the window.
    """
    if min(pictures.shape[-2:]) < WINDOW:
        raise ValueError(
            f"pictures of {pictures.shape[-2:]} pixels are smaller than the window of SSIM, {WINDOW}: give larger ones"
        )
    pairs = zip(_brightness(pictures), _brightness(references), strict=True)
    return float(np.mean([_similarity(ours, theirs) for ours, theirs in pairs]))


def _similarity(ours: Grey, theirs: Grey) -> float:
    """Mean similarity of two grey pictures, both (H, W)."""
    mean, other = _windowed(ours), _windowed(theirs)  # (H - 10, W - 10)
    product, squares = mean * other, mean * mean + other * other
    covariance = _windowed(ours * theirs) - product
    variances = _windowed(ours * ours + theirs * theirs) - squares  # the sum of both
    return float(((2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))).mean())


def _brightness(pictures: npt.NDArray[np.float32]) -> Grey:
    count, _, height, width = pictures.shape
    brightness: Grey = LUMA @ pictures.reshape(count, 3, height * width).astype(np.float64)  # (N, H * W)
    return brightness.reshape(count, height, width)  # (N, H, W)


def _windowed(values: Grey) -> Grey:
    """Gaussian mean around each place where the window fits: (H, W) -> (H - 10, W - 10)."""
    edge = WINDOW // 2
    blurred = cast("Grey", cv2.GaussianBlur(values, (WINDOW, WINDOW), SIGMA))  # (H, W)
    return blurred[edge:-edge, edge:-edge]
