"""Targets of decoding: what a picture is wanted for, and so how few of its pixels need be made.

A decoder asks its target twice: how far it may shrink the picture while it decodes, and what becomes of the pixels.
"""

from dataclasses import dataclass
from typing import Protocol

from saccade_ros.frames import Picture
from saccade_ros.vision.preprocess import reduction, resize_to_square


class Target(Protocol):
    """Purpose of a picture, which tells how few of its pixels are needed."""

    def reduction(self, height: int, width: int) -> int:
        """Factor by which a (height, width) picture may be shrunk as it is decoded: 1, 2, 4 or 8."""

    def resize(self, picture: Picture) -> Picture:
        """Resize uint8 pixels of any number of channels, each by itself: (H, W, C) -> (new H, new W, C)."""


class Whole:
    """The whole picture, pixel by pixel."""

    def reduction(self, height: int, width: int) -> int:
        """Shrink nothing."""
        return 1

    def resize(self, picture: Picture) -> Picture:
        """Return the picture as it is."""
        return picture


WHOLE = Whole()


@dataclass(frozen=True, slots=True)
class Square:
    """The encoder's input before normalisation: (size, size, C), cut by `fit` as vision.fit says."""

    size: int
    fit: str

    def reduction(self, height: int, width: int) -> int:
        """Shrink to no fewer pixels than the resizing needs, and to whole ones."""
        return reduction(height, width, self.size, self.fit)

    def resize(self, picture: Picture) -> Picture:
        """Resize as the checkpoints' own transform does: see preprocess.resize_to_square."""
        return resize_to_square(picture, self.size, self.fit)
