"""Mean embedding of a calibration as the text of a parameter, gate.centre."""

import base64
import binascii

import numpy as np

from saccade_ros.config import ConfigError
from saccade_ros.frames import Vector


def encode_centre(centre: Vector) -> str:
    """Write a mean embedding (dim,) as text: base64 of little-endian float16."""
    return base64.b64encode(np.asarray(centre, "<f2").tobytes()).decode("ascii")


def decode_centre(text: str, dim: int) -> Vector:
    """Read back what `encode_centre` wrote: (dim,).

    Raises:
        ConfigError: the text is damaged, or of an encoder of another width.
    """
    try:
        centre = np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float32)
    except (binascii.Error, ValueError) as broken:
        raise ConfigError(
            f"gate.centre is damaged ({broken}): run `saccade calibrate` again, or leave it out"
        ) from broken
    if centre.shape != (dim,) or not np.isfinite(centre).all():
        raise ConfigError(
            f"gate.centre holds {len(centre)} values, the encoder's embeddings {dim}: "
            "run `saccade calibrate` again, or leave it out"
        )
    return centre
