"""Residual of a canvas: how far what it shows of each patch is from the picture, and which patches to send.

A canvas is the picture that a viewer has who gets M patches of each tubelet: every patch is shown as it was when it
was last sent. Errors are in grey levels, 0 to 255.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import IMAGENET_STD, PerPatch, Pixels

WHITE = 255.0  # brightest grey level, the peak of a PSNR
_GREY_SQUARED = np.square(WHITE * np.array(IMAGENET_STD)).astype(np.float32)  # (3,): of one, squared, in pixels


def residual_energy(pixels: Pixels, canvas: Pixels, patch_size: int) -> PerPatch:
    """Sum the squared error of each patch over both frames, all colours and its pixels: (S,), by rows, in grey levels.

    Args:
        pixels, canvas: the picture and what the canvas shows of it, (2, 3, H, W); H and W are multiples of patch_size.

    Raises:
        ValueError: one of the two holds NaN or infinity.
    """
    frames, colours, height, width = pixels.shape
    squares = np.square(np.subtract(pixels, canvas)).reshape(frames * colours, height * width)  # (2 * 3, H * W)
    by_pixel = np.tile(_GREY_SQUARED, frames) @ squares  # (H * W,)
    by_column = by_pixel.reshape(-1, patch_size, width).sum(axis=1)  # (H / patch, W)
    energy: PerPatch = by_column.reshape(-1, patch_size).sum(axis=1)  # (S,)
    if not np.isfinite(energy.sum()):
        raise ValueError("the residual is not finite: the tubelet's pixels or the canvas hold NaN or infinity")
    return energy


def largest(energy: npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[np.int64]:
    """Choose the `count` patches of largest energy, the first of equal ones: int64 (count,), ascending."""
    return np.sort(_by_energy(energy)[:count])


def tokens_within(energy: PerPatch, psnr_db: float, values: int) -> npt.NDArray[np.int64]:
    """Choose the fewest patches whose update brings the canvas within a PSNR of the picture: int64 (M,), ascending.

    An update makes the error of a patch zero and leaves all others as they are, so what remains of the squared error
    is the sum over the patches not sent. Of all choices of M patches, the M of largest energy therefore leave the
    least, for any M: they are the L2 optimum, and no rule, learned or not, reaches a PSNR with fewer patches.

    Args:
        energy: of each patch, (S,), from `residual_energy`.
        values: number of values in the tubelet's pixels, which the squared error is a mean over.
    """
    order = _by_energy(energy)
    remaining = np.cumsum(energy[order[::-1]], dtype=np.float64)  # (S,): with the last 1, 2, ... S patches not sent
    kept = np.searchsorted(remaining, values * squared_error(psnr_db), side="right")
    return np.sort(order[: len(order) - kept])


def update_canvas(canvas: Pixels, pixels: Pixels, token_idx: npt.NDArray[np.int64], patch_size: int) -> None:
    """Show the patches `token_idx` (M,) of the picture on the canvas, in place."""
    rows, columns = np.divmod(token_idx, pixels.shape[-1] // patch_size)
    _patches(canvas, patch_size)[rows, columns] = _patches(pixels, patch_size)[rows, columns]  # (M, 2, 3, patch, patch)


def psnr(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error in grey levels; infinite for none."""
    return float(10 * np.log10(WHITE**2 / mean_squared_error)) if mean_squared_error else float("inf")


def squared_error(psnr_db: float) -> float:
    """Mean squared error in grey levels of a PSNR, the inverse of `psnr`."""
    return float(WHITE**2 / 10 ** (psnr_db / 10))


def _by_energy(energy: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Indices of the patches, the largest energy first: (S,)."""
    return np.argsort(-energy, kind="stable").astype(np.int64)


def _patches(pixels: Pixels, patch_size: int) -> npt.NDArray[np.float32]:
    """View pixels by row and column of patches."""
    frames, colours, height, width = pixels.shape
    grid = (height // patch_size, patch_size, width // patch_size, patch_size)
    view: npt.NDArray[np.float32] = pixels.reshape(frames, colours, *grid).transpose(2, 4, 0, 1, 3, 5)
    return view  # (rows, columns, 2, 3, patch, patch)
