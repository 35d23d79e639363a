"""Render clips to train on: python render.py PACKAGES OUT --clips N --seed S.

A clip is FRAMES frames of 256 x 256 pixels at RATE per second, an H.264 file named by its number; its content is a
function of seed and number. What is there already is kept, so an interrupted run goes on where it stopped.
"""

import argparse
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from assets import panoramas, photographs, textures
from doom import EPISODES, TRAINED_MAPS, DoomMap
from scenes import SIDE, Picture, Random, panorama_clip, picture_clip, room_clip, with_movers

FRAMES, RATE = 16, 8
BLOCK = 25  # clips in a row from one Doom map, which takes time to load


def main() -> None:
    """Render what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=8000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    studio = Studio(given.packages, given.seed)
    for number in range(given.first, given.first + given.clips):
        file = given.out / f"{studio.kind(number)}_{number:06}.mp4"
        if not file.exists():
            write_clip(file, itertools.islice(studio.clip(number), FRAMES))


class Studio:
    """All that clips are rendered from; clip(number) is a function of the seed and the number."""

    def __init__(self, packages: Path, seed: int) -> None:
        self._seed = seed
        self._textures, self._photographs = textures(packages), photographs(packages)
        self._panoramas = list(panoramas(packages, held_out=False).values())
        self._maps = (*TRAINED_MAPS, *EPISODES)
        self._map: tuple[int, DoomMap] | None = None

    @staticmethod
    def kind(number: int) -> str:
        """Kind of scene of a clip."""
        return ("panorama", "room", "doom", "panorama", "room", "doom", "panorama", "picture")[number // BLOCK % 8]

    def clip(self, number: int) -> Iterator[Picture]:
        """Give the frames of a clip, without end."""
        random = np.random.default_rng([self._seed, number])
        frames = getattr(self, f"_{self.kind(number)}")(number, random)
        return with_movers(frames, self._textures, random) if random.random() < 0.35 else frames

    def _panorama(self, number: int, random: Random) -> Iterator[Picture]:
        return panorama_clip(self._panoramas[int(random.integers(len(self._panoramas)))], random)

    def _room(self, number: int, random: Random) -> Iterator[Picture]:
        return room_clip(self._textures, random)

    def _picture(self, number: int, random: Random) -> Iterator[Picture]:
        return picture_clip(self._photographs[int(random.integers(len(self._photographs)))], random)

    def _doom(self, number: int, random: Random) -> Iterator[Picture]:
        block = number // BLOCK
        if self._map is None or self._map[0] != block:
            if self._map:
                self._map[1].close()
            name = self._maps[int(np.random.default_rng([self._seed, block]).integers(len(self._maps)))]
            self._map = block, DoomMap(name, block)
        return self._map[1].walk(random)


def write_clip(file: Path, frames: Iterator[Picture], rate: int = RATE) -> None:
    """Write frames as an H.264 file, whole or not at all."""
    partial = file.with_suffix(".partial")
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
        stream.height = stream.width = SIDE
        stream.pix_fmt, stream.time_base, stream.thread_count = "yuv420p", Fraction(1, rate), 1
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = i
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    partial.rename(file)


if __name__ == "__main__":
    main()
