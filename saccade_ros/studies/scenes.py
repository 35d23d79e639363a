"""Generated scenes with events at known times, for tests of gates.

A textured world with the spectrum of natural pictures (amplitude falls as 1/frequency), seen by a 25 Hz camera of
320 x 240 pixels. Sensor noise is in every scene but `static`. Same name, same pictures.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Frame, Picture

FPS = 25
FRAMES = 300  # 12 s
HEIGHT, WIDTH = 240, 320
MARGIN = 160  # pixels of world around the view, for pans
NOISE_SIGMA = 1.5  # of 255

World = npt.NDArray[np.float32]  # (height, width, 3), 0..255


@dataclass(frozen=True)
class Scene:
    """Generated recording.

    Attributes:
        draw: frame number -> the picture before sensor noise, 0..255.
        events: numbers of the frames in which something new appears.
        noise_sigma: of the sensor, in grey levels.
    """

    name: str
    draw: Callable[[int], World]
    events: tuple[int, ...] = ()
    noise_sigma: float = NOISE_SIGMA

    @property
    def events_ns(self) -> tuple[int, ...]:
        """Stamps of the events' frames."""
        return tuple(_stamp_ns(event) for event in self.events)

    def frames(self) -> Iterator[Frame]:
        """Yield the camera's frames, stamped at 25 Hz from 1 s on."""
        rng = np.random.default_rng(7)
        for i in range(FRAMES):
            seen = self.draw(i)
            noisy = seen + rng.normal(0, self.noise_sigma, seen.shape) if self.noise_sigma else seen
            picture: Picture = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
            yield Frame(picture, _stamp_ns(i), "camera")


def _stamp_ns(frame: int) -> int:
    return 10**9 + frame * 10**9 // FPS


def generated_scenes() -> tuple[Scene, ...]:
    """Make all scenes, in the order of the table."""
    world, other = _world(0), _world(1)
    still = _view(world, 0, 0)
    shifts = np.random.default_rng(3).integers(-1, 2, (FRAMES, 2))
    return (
        Scene("static", lambda i: still, noise_sigma=0.0),
        Scene("noise", lambda i: still, noise_sigma=2.0),
        # Exposure and white balance jump four times; between the jumps a small object appears twice.
        Scene("exposure step", lambda i: _exposed(_with_objects(still, i, (150, 200)), i), events=(150, 200)),
        # Lamps on 50 Hz mains, 1 ms exposure, rolling shutter: bands run through the picture; an object appears.
        Scene("100 Hz flicker", lambda i: _with_objects(still, i, (150,)) * _flicker(i), events=(150,)),
        # The mount shakes by up to a pixel; an object appears.
        Scene("1-px vibration", lambda i: _with_objects(_view(world, *map(float, shifts[i])), i, (150,)), (150,)),
        Scene("slow pan", lambda i: _view(world, 0, 0.2 * i)),  # 0.2 pixels a frame
        # 10 x 10 pixels cross the view at 1 pixel a frame, twice.
        Scene("small distant mover", lambda i: _with_mover(still, i), events=(50, 200)),
        Scene("cut", lambda i: (still, _view(other, 0, 0))[i // 75 % 2], events=(75, 150, 225)),  # to another place
        Scene("ego-motion", lambda i: _sweep(world, i)),  # the camera sweeps and rotates, all the time
    )


def _world(seed: int) -> World:
    """Random phases under an amplitude of 1/f, colours mostly alike: (HEIGHT + 2 MARGIN, WIDTH + 2 MARGIN, 3)."""
    rng = np.random.default_rng(seed)
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / width)
    layers = []
    for _ in range(4):  # one for the brightness, one for each colour
        phases = np.exp(2j * np.pi * rng.random(amplitude.shape))
        layer = np.fft.irfft2(amplitude * phases, (height, width))
        layers.append(layer / layer.std())
    world = 100 + 32 * layers[0][..., None] + 9 * np.stack(layers[1:], axis=-1)  # (height, width, 3)
    bounded: World = np.clip(world, 5, 250).astype(np.float32)
    return bounded


def _view(world: World, down: float, right: float, degrees: float = 0.0) -> World:
    """View of the world from a camera that is moved and rotated about its centre: (HEIGHT, WIDTH, 3)."""
    centre = (WIDTH / 2 + MARGIN + right, HEIGHT / 2 + MARGIN + down)
    moved = cv2.getRotationMatrix2D(centre, degrees, 1.0)
    moved[:, 2] -= np.array((MARGIN + right, MARGIN + down))
    seen: World = cv2.warpAffine(world, moved, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT).astype(np.float32)
    return seen


def _with_objects(scene: World, frame: int, appear: tuple[int, ...]) -> World:
    """A 28-pixel object at another place for each of these frames, from that frame on."""
    scene = scene.copy()
    for n, first in enumerate(appear):
        if frame >= first:
            y, x = 90 + 30 * n, 110 + 60 * n
            scene[y : y + 28, x : x + 28] = (210, 60, 40)
    return scene


def _with_mover(scene: World, frame: int) -> World:
    scene = scene.copy()
    for first in (50, 200):
        if 0 <= frame - first < 80:
            x = 110 + frame - first
            scene[120:130, x : x + 10] = (30, 30, 200)
    return scene


def _exposed(scene: World, frame: int) -> World:
    """Automatic exposure and white balance that hunt: up by half, back, down by a third and warmer, back."""
    if 60 <= frame < 100:
        return scene * 1.3
    if 230 <= frame < 270:
        return scene * np.array((0.8, 0.72, 0.65), np.float32)
    return scene


def _flicker(frame: int) -> World:
    """Lamps at 100 Hz, 12 % deep, sampled by rows that are read in 20 ms; 25.1 Hz makes the bands wander."""
    seconds = frame / 25.1 + np.linspace(0, 0.02, HEIGHT)
    return (1 + 0.12 * np.sin(2 * np.pi * 100 * seconds)).astype(np.float32)[:, None, None]  # (HEIGHT, 1, 1)


def _sweep(world: World, frame: int) -> World:
    seconds = frame / FPS
    down, right = 60 * np.sin(1.1 * seconds), 100 * np.sin(0.7 * seconds)
    return _view(world, float(down), float(right), float(8 * np.sin(0.9 * seconds)))
