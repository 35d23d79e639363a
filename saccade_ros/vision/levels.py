"""Grey levels of 16-bit samples: which of them become black and white, and a warning where few are left of 256."""

import logging
from collections.abc import Callable
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

WHITE = 65535
FEW = 65  # levels of 256: what 14 bits in a 16-bit image come to at most, rounded
_STRAY = 0.001  # share of the samples that may be dead pixels, at either end

_log = logging.getLogger(__name__)


class Levels:
    """Conversion of 16-bit samples to 8 bits.

    Args:
        black, white: the samples that become 0 and 255; what lies beyond becomes the same.
        name: of the images, for the warning.
        warn: told once, if the samples use few levels: changes between them would hardly be seen.
    """

    def __init__(
        self,
        black: int = 0,
        white: int = WHITE,
        name: str = "an image",
        warn: Callable[[str], object] = _log.warning,
    ) -> None:
        self._black, self._white, self._name, self._warn = black, white, name, warn
        self._warned = False

    def to_8_bits(self, samples: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
        """Convert and round: uint16 -> uint8 of the same shape."""
        above = np.maximum(samples, self._black) - np.uint16(self._black) if self._black else samples
        grey = cast("npt.NDArray[np.uint8]", cv2.convertScaleAbs(above, alpha=255 / (self._white - self._black)))
        if not self._warned:
            self._look_at(samples, grey)
        return grey

    def _look_at(self, samples: npt.NDArray[np.uint16], grey: npt.NDArray[np.uint8]) -> None:
        used = _span(grey)
        levels = used[1] - used[0] + 1
        if levels > FEW:
            return
        some = samples.reshape(-1)[:: 1 + samples.size // 100_000]
        low, high = np.percentile(some, [100 * _STRAY, 100 - 100 * _STRAY]).astype(int).tolist()
        if low == high:
            return  # a covered lens says nothing of the scene
        self._warned = True
        margin = high - low  # as much again on either side, for what is not in this picture
        self._warn(
            f"{self._name} uses the 16-bit levels {low} to {high}, of which {levels} of 256 grey levels are left: "
            f"small changes are not seen; set vision.mono16_range to what the camera gives, such as "
            f"[{max(0, low - margin)}, {min(WHITE, high + margin)}]"
        )


def _span(grey: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Lowest and highest grey level in use, stray pixels left out."""
    counts = cv2.calcHist([grey.reshape(-1, 1)], [0], None, [256], [0, 256]).ravel()  # (256,)
    below = np.cumsum(counts) / grey.size  # (256,)
    low, high = np.searchsorted(below, [_STRAY, 1 - _STRAY])
    return int(low), int(high)
