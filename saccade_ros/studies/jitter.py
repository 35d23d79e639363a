"""Change of light and noise that a robot's camera meets when it comes back: the same pictures, otherwise exposed."""

import numpy as np
import numpy.typing as npt

from saccade_ros.recordings.clip import Clip

GAIN = (0.7, 1.4)
GAMMA = (0.75, 1.35)
COLOUR_SHIFT = 12.0  # at most, of each colour, in grey levels of 255
NOISE_SIGMA = 6.0  # of 255, of each value of each picture

Pictures = npt.NDArray[np.uint8]


def jitter(clip: Clip, seed: int) -> Clip:
    """Show a clip in other light, one light for the whole clip, and with sensor noise that is new in every picture."""
    rng = np.random.default_rng(seed)
    light = _light(rng)  # (256, 3)
    return Clip(np.stack([_seen(pictures, light, rng) for pictures in clip.pictures]), clip.stamps_ns)


def _seen(pictures: Pictures, light: npt.NDArray[np.float32], rng: np.random.Generator) -> Pictures:
    lit = light[pictures, np.arange(3)]  # (2, H, W, 3)
    noisy = lit + NOISE_SIGMA * rng.standard_normal(lit.shape, np.float32)
    seen: Pictures = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return seen


def _light(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Table of what each level of each colour becomes, (256, 3): gain and gamma in common, a shift of its own."""
    gain, gamma = np.exp(rng.uniform(np.log(GAIN[0]), np.log(GAIN[1]))), rng.uniform(*GAMMA)
    levels = 255 * gain * (np.arange(256) / 255) ** gamma
    shifted: npt.NDArray[np.float32] = levels[:, None] + rng.uniform(-COLOUR_SHIFT, COLOUR_SHIFT, 3)
    return shifted.astype(np.float32)
