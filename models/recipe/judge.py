"""Render clips to judge on, of maps and panoramas that nothing was trained on: python judge.py PACKAGES OUT.

OUT/doom/MAP_N.mp4                   walks through held-out maps
OUT/panoramas/NAME.mp4               a look around in each held-out panorama
OUT/motion/{train,test}/left/N.mp4   a camera that turns left, right, up or down; test: held-out panoramas
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from assets import panoramas
from doom import HELD_OUT_MAPS, DoomMap
from render import write_clip
from scenes import Panorama, Picture, Random, look_around, panorama_clip, tone_map

SEED = 20
WALKS, WALK_FRAMES, WALK_RATE = 8, 96, 12  # of a map; 8 s each
LOOK_FRAMES, LOOK_RATE = 192, 8  # of a panorama; 24 s
TURNS, TURN_FRAMES, TURN_RATE = {"train": 60, "test": 30}, 8, 4  # of a direction; 2 s each
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def main() -> None:
    """Render all three sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    render_doom(given.out / "doom")
    render_panoramas(panoramas(given.packages, held_out=True), given.out / "panoramas")
    for split in TURNS:
        render_motion(list(panoramas(given.packages, held_out=split == "test").values()), split, given.out / "motion")


def render_doom(folder: Path) -> None:
    """Render walks through the held-out maps, none of which stands still."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(HELD_OUT_MAPS):
        world = DoomMap(name, SEED)
        for walk in range(WALKS):
            frames = world.walk(np.random.default_rng([SEED, index, walk]), pace=1.0)
            write_clip(folder / f"{name}_{walk}.mp4", itertools.islice(frames, WALK_FRAMES), WALK_RATE)
        world.close()


def render_panoramas(found: dict[str, Panorama], folder: Path) -> None:
    """Render a look around in each panorama."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, (name, panorama) in enumerate(found.items()):
        frames = panorama_clip(panorama, np.random.default_rng([SEED, index]), pace=0.5)
        write_clip(folder / f"{name}.mp4", itertools.islice(frames, LOOK_FRAMES), LOOK_RATE)


def render_motion(found: list[Panorama], split: str, folder: Path) -> None:
    """Render turns of a camera in every direction."""
    for label, (right, down) in DIRECTIONS.items():
        (folder / split / label).mkdir(parents=True, exist_ok=True)
        for number in range(TURNS[split]):
            random = np.random.default_rng([SEED, number, len(split), len(label)])
            frames = turn(found[number % len(found)], random, right, down)
            file = folder / split / label / f"{number:03}.mp4"
            write_clip(file, itertools.islice(frames, TURN_FRAMES), TURN_RATE)


def turn(panorama: Panorama, random: Random, right: int, down: int) -> Iterator[Picture]:
    """Turn at a steady 1 to 6 degrees per frame."""
    picture = tone_map(panorama, float(np.exp(random.normal(0, 0.4))), 2.2)
    speed = np.radians(random.uniform(1, 6))
    yaw, pitch = random.uniform(-np.pi, np.pi), random.normal(0, 0.15) - 4 * speed * down
    roll, view = random.normal(0, 0.05), np.radians(random.uniform(50, 90))
    while True:
        yield look_around(picture, yaw, pitch, roll, view)
        yaw, pitch = yaw + right * speed, pitch + down * speed


if __name__ == "__main__":
    main()
