"""Small configs, and frames of scenes drawn here; for all tests."""

from collections.abc import Iterator

import numpy as np

from saccade_ros.config import BackendConfig, Config, EncoderConfig, StreamConfig, TokensConfig
from saccade_ros.frames import Frame, Picture

PERIOD_NS = 40_000_000  # a 25 Hz camera


def tiny_config(**sections: object) -> Config:
    """The tiny random model on every frame of a 25 Hz camera, window 3; one thread, so that bits can be compared.

    The gate decides alone: no token selection unless it is asked for.
    """
    defaults = {
        "stream": StreamConfig(fps=0.0),
        "tokens": TokensConfig(select="all"),
        "encoder": EncoderConfig(model="tiny", window=3),
        "backend": BackendConfig(threads=1),
    }
    return Config(**{**defaults, **sections})


def textured(height: int = 240, width: int = 320, seed: int = 0) -> Picture:
    """A picture with structure at all scales, like a real scene."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cell in (8, 24, 80):
        coarse = rng.normal(0, 30, (height // cell + 2, width // cell + 2, 3))
        picture += np.kron(coarse, np.ones((cell, cell, 1)))[:height, :width]
    return np.clip(picture + 120, 0, 255).astype(np.uint8)


def frames_of(pictures: list[Picture], start_ns: int = 10**9, frame_id: str = "camera") -> Iterator[Frame]:
    """Stamp pictures at 25 Hz."""
    for i, picture in enumerate(pictures):
        yield Frame(picture, start_ns + i * PERIOD_NS, frame_id)
