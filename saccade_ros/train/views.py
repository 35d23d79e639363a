"""Examples made of few clips: the teacher answers for any picture, so every crop, mirroring and light is a new one."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 1.5  # clips are read this much larger than the encoder's input, to be cropped
CONTRAST = (0.6, 1.4)
LIGHT = 0.6  # shift of each colour, in standard deviations of ImageNet's pictures


def random_view(pixels: Tensor, size: int, tubelets: int, generator: torch.Generator) -> Tensor:
    """A stretch of a clip, played to and fro if that is shorter: (T, 2, 3, B, B) -> (tubelets, 2, 3, size, size)."""

    def between(low: float, high: float) -> float:
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
    light = torch.tensor([between(-LIGHT, LIGHT) for _ in range(3)])[:, None, None]
    view: Tensor = (frames * between(*CONTRAST) + light).unflatten(0, (-1, 2))
    return view
