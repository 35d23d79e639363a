"""Random views of few clips: crops, mirror images, contrasts and colour shifts.

The teacher gives targets for any picture, so each view is a new training example.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 1.5  # clips are read this much larger than the encoder's input, to be cropped
CONTRAST = (0.6, 1.4)
COLOUR_SHIFT = 0.6  # at most, of each colour, in standard deviations of ImageNet's pictures


def random_view(pixels: Tensor, size: int, tubelets: int, generator: torch.Generator) -> Tensor:
    """Draw a view of a clip, played to and fro if it is shorter: (T, 2, 3, B, B) -> (tubelets, 2, 3, size, size)."""

    def between(low: float, high: float) -> float:
        """Draw a number."""
        return low + (high - low) * float(torch.rand((), generator=generator))

    there_and_back = np.concatenate((np.arange(len(pixels)), np.arange(len(pixels) - 2, 0, -1)))
    played = np.resize(np.roll(there_and_back, -int(between(0, len(there_and_back)))), tubelets)
    full = pixels.shape[-1]
    side = int(between(size / MARGIN / 1.33, full))
    top, left = (int(between(0, full - side + 1)) for _ in range(2))
    frames = pixels[played, ..., top : top + side, left : left + side].flatten(0, 1)  # (2T, 3, side, side)
    frames = F.interpolate(frames, (size, size), mode="bilinear", align_corners=False, antialias=True)
    frames = frames.flip(-1) if between(0, 1) < 0.5 else frames
    frames = frames.flip(0) if between(0, 1) < 0.5 else frames  # time runs backwards
    shift = torch.tensor([between(-COLOUR_SHIFT, COLOUR_SHIFT) for _ in range(3)])[:, None, None]
    view: Tensor = (frames * between(*CONTRAST) + shift).unflatten(0, (-1, 2))
    return view
