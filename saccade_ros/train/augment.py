"""Augmentation of what the student sees: illumination, noise and blur. The targets stay those of the clean picture."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade_ros.frames import IMAGENET_MEAN, IMAGENET_STD
from saccade_ros.train.teachers import Pictures

GAIN, COLOUR, GAMMA = 0.35, 0.12, 0.25  # standard deviations of the logarithms
FLICKER = 0.08  # of the gain from tubelet to tubelet
NOISE = 0.12  # largest standard deviation, as a fraction of white
OFTEN, SELDOM = 0.8, 0.4  # fractions of the clips that have their illumination, and that have noise or blur


def plain_pixels(pictures: Pictures) -> Tensor:
    """Normalise pictures as the encoder's input: (B, T, 2, H, W, 3) uint8 -> (B, T, 2, 3, H, W)."""
    levels = np.broadcast_to(np.linspace(0, 1, 256), (*pictures.shape[:2], 3, 256))
    return _look_up(pictures, levels)


def augmented_pixels(pictures: Pictures, random: np.random.Generator) -> Tensor:
    """Change illumination, add noise and blur, each clip by its own, and normalise: as plain_pixels."""
    pixels = _look_up(pictures, _illuminations(pictures.shape[0], pictures.shape[1], random))
    for clip in pixels:
        if random.random() < SELDOM:
            clip.copy_(_blurred(clip))
        if random.random() < SELDOM:
            level = NOISE * random.random() / float(np.mean(IMAGENET_STD))
            clip.add_(torch.from_numpy(random.standard_normal(clip.shape, np.float32)), alpha=level)
    return pixels


def _illuminations(clips: int, tubelets: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw what becomes of each of the 256 levels, 0 to 1: (B, T, 3, 256)."""
    gain = GAIN * random.normal(size=(clips, 1, 1, 1)) + FLICKER * random.normal(size=(clips, tubelets, 1, 1))
    gain = gain + COLOUR * random.normal(size=(clips, 1, 3, 1))
    gamma = GAMMA * random.normal(size=(clips, 1, 1, 1))
    where = random.random((clips, 1, 1, 1)) < OFTEN
    levels = np.linspace(0, 1, 256) ** np.exp(where * gamma) * np.exp(where * gain)
    return np.clip(levels, 0, 1)


def _look_up(pictures: Pictures, levels: npt.NDArray[np.float64]) -> Tensor:
    """Replace each level by its own of the tubelet and colour, normalised: (B, T, 2, 3, H, W)."""
    mean, std = (np.array(values)[:, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    tables = ((levels - mean) / std).astype(np.float32)  # (B, T, 3, 256)
    channels_first = np.moveaxis(pictures, -1, -3)  # (B, T, 2, 3, H, W)
    pixels = np.empty(channels_first.shape, np.float32)
    for clip, tubelet, colour in np.ndindex(tables.shape[:3]):
        np.take(
            tables[clip, tubelet, colour],
            channels_first[clip, tubelet, :, colour],
            out=pixels[clip, tubelet, :, colour],
        )
    return torch.from_numpy(pixels)


def _blurred(clip: Tensor) -> Tensor:
    """Binomial blur over 5 x 5 pixels: (T, 2, 3, H, W)."""
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    flat = F.pad(clip.flatten(0, 2)[:, None], (2, 2, 2, 2), mode="replicate")  # (T*2*3, 1, H+4, W+4)
    blurred = F.conv2d(F.conv2d(flat, weights[None, None, None]), weights[None, None, :, None])
    return blurred.view_as(clip)
