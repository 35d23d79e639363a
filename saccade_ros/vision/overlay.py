"""Changed patches drawn on the camera's picture, and the box around them."""

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Picture, View

PatchNovelty = npt.NDArray[np.float32]  # (grid, grid)

OPACITY = 0.6


def changed_region(novelty: PatchNovelty, view: View, tau: float) -> tuple[int, int, int, int]:
    """Box around the patches whose novelty reaches tau, in whole pixels of the camera's picture.

    Returns:
        x, y, width, height; the whole view if no patch reaches tau by itself.
    """
    rows, columns = np.nonzero(novelty >= tau)
    if not len(rows):
        rows, columns = np.array([0, novelty.shape[0] - 1]), np.array([0, novelty.shape[1] - 1])
    down, right = view.height / novelty.shape[0], view.width / novelty.shape[1]
    top, bottom = view.top + rows.min() * down, view.top + (rows.max() + 1) * down
    left, end = view.left + columns.min() * right, view.left + (columns.max() + 1) * right
    x, y = int(np.floor(left)), int(np.floor(top))
    return x, y, int(np.ceil(end)) - x, int(np.ceil(bottom)) - y


def novelty_overlay(picture: Picture, novelty: PatchNovelty, view: View, tau: float) -> Picture:
    """Copy of the picture with changed patches tinted red and a white frame around the encoder's view.

    The tint grows with novelty (grid, grid) and has its full strength, OPACITY, from tau on.
    """
    height, width = picture.shape[:2]
    top, left = round(view.top), round(view.left)
    bottom, right = min(height, round(view.top + view.height)), min(width, round(view.left + view.width))
    strength = np.clip(novelty / tau if tau else np.ones_like(novelty), 0, 1).astype(np.float32)
    tint = cv2.resize(strength, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST)[..., None] * OPACITY
    out: Picture = picture.copy()
    viewed = out[top:bottom, left:right]  # (view height, view width, 3)
    viewed[:] = np.round(viewed * (1 - tint) + tint * np.array((255, 0, 0), np.float32)).astype(np.uint8)
    cv2.rectangle(out, (left, top), (right - 1, bottom - 1), (255, 255, 255), 1)
    return out
