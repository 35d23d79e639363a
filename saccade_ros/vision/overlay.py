"""Changed and computed patches drawn on the camera's picture, and the box around the changed ones."""

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Picture, View

PatchNovelty = npt.NDArray[np.float32]  # (grid, grid)

PatchMask = npt.NDArray[np.bool_]  # (grid, grid)

OPACITY = 0.6
OUTLINE = (0, 255, 255)  # cyan: stands out on the red tint, and from it
LINE = 1 / 200  # width of an outline, of the picture's shorter side


def changed_region(novelty: PatchNovelty, view: View, least: float) -> tuple[int, int, int, int]:
    """Box around the patches whose change reaches `least`, in whole pixels of the camera's picture.

    Returns:
        x, y, width, height; the whole view if no patch reaches it by itself.
    """
    rows, columns = np.nonzero(novelty >= least)
    if not len(rows):
        rows, columns = np.array([0, novelty.shape[0] - 1]), np.array([0, novelty.shape[1] - 1])
    down, right = view.height / novelty.shape[0], view.width / novelty.shape[1]
    top, bottom = view.top + rows.min() * down, view.top + (rows.max() + 1) * down
    left, end = view.left + columns.min() * right, view.left + (columns.max() + 1) * right
    x, y = int(np.floor(left)), int(np.floor(top))
    return x, y, int(np.ceil(end)) - x, int(np.ceil(bottom)) - y


def novelty_overlay(picture: Picture, novelty: PatchNovelty, view: View, full: float) -> Picture:
    """Copy of the picture with changed patches tinted red and a white frame around the encoder's view.

    The tint grows with the change of each patch (grid, grid) and has its full strength, OPACITY, from `full` on.
    """
    out: Picture = picture.copy()
    viewed = _viewed(out, view)
    height, width = viewed.shape[:2]
    strength = np.clip(novelty / full if full else np.ones_like(novelty), 0, 1).astype(np.float32)
    tint = cv2.resize(strength, (width, height), interpolation=cv2.INTER_NEAREST)[..., None] * OPACITY
    viewed[:] = np.round(viewed * (1 - tint) + tint * np.array((255, 0, 0), np.float32)).astype(np.uint8)
    cv2.rectangle(viewed, (0, 0), (width - 1, height - 1), (255, 255, 255), 1)
    return out


def computed_overlay(picture: Picture, computed: PatchMask, view: View) -> Picture:
    """Copy of the picture with a cyan outline around the patches that were computed, (grid, grid).

    Neighbours share one outline: it encloses the whole view where all were computed, and is absent where none was.
    """
    out: Picture = picture.copy()
    viewed = _viewed(out, view)
    height, width = viewed.shape[:2]
    inside = cv2.resize(computed.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    line = max(1, round(min(picture.shape[:2]) * LINE))
    core = cv2.erode(inside, np.ones((2 * line + 1, 2 * line + 1)), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    viewed[inside > core] = OUTLINE
    return out


def _viewed(picture: Picture, view: View) -> Picture:
    """The part of a picture that the encoder sees, (view height, view width, 3); writing to it changes the picture."""
    height, width = picture.shape[:2]
    bottom, right = min(height, round(view.top + view.height)), min(width, round(view.left + view.width))
    return picture[round(view.top) : bottom, round(view.left) : right]
