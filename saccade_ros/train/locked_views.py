"""Locked views of clips: which frames, crop, mirror image and colours each view shows is a function of seed and number.

Teacher and student must see the same pictures, hours or machines apart. So a view is no draw of a running generator:
it follows from the seed and its number alone, is kept with what was made of it, and is hashed.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.config import Config
from saccade_ros.frames import Picture
from saccade_ros.recordings.clip import DecodedTubelet, decode_tubelets
from saccade_ros.recordings.source import SourceError

LEAST_SIDE = 0.6  # of a crop, as a fraction of the picture's shorter side
GAIN, COLOUR = 0.15, 0.06  # standard deviations of the logarithms of the gain, and of each colour's own


class View(NamedTuple):
    """Choice of what a view shows.

    Attributes:
        clip: number of the clip.
        start: its first tubelet in the clip, as a fraction of all places it could start at.
        side: of the square crop, as a fraction of the picture's shorter side.
        top, left: of the crop, as fractions of the room there is.
        mirrored: left and right change places.
        gains: of red, green and blue.
    """

    clip: int
    start: float
    side: float
    top: float
    left: float
    mirrored: bool
    gains: tuple[float, float, float]

    def numbers(self) -> npt.NDArray[np.float64]:
        """Write the view as a row of numbers: (9,)."""
        return np.array([*self[:6], *self.gains], np.float64)


@dataclass(frozen=True)
class ViewedClip:
    """Clip as views are taken of it.

    Attributes:
        tubelets: how many it has.
        sha256: of the file; of a folder, over its files.
    """

    path: Path
    tubelets: int
    sha256: str


@dataclass(frozen=True)
class Seen:
    """Pictures of a view.

    Attributes:
        number: of the view.
        pictures: (T, 2, side, side, 3) uint8.
        stamps_ns: of the frames, (T, 2).
    """

    number: int
    view: View
    pictures: npt.NDArray[np.uint8]
    stamps_ns: npt.NDArray[np.int64]


def draw_view(seed: int, number: int, per_clip: int) -> View:
    """Choose view `number`; a clip has `per_clip` views in a row, whose starts are spread over it in order."""
    random = np.random.default_rng([seed, number])
    clip, place = divmod(number, per_clip)
    start = (place + random.random()) / per_clip
    side, top, left = random.uniform(LEAST_SIDE, 1.0), random.random(), random.random()
    gains = np.exp(random.normal(0, GAIN) + random.normal(0, COLOUR, 3))
    red, green, blue = (float(gain) for gain in gains)
    return View(clip, start, side, top, left, bool(random.random() < 0.5), (red, green, blue))


def survey(path: Path, least: int, config: Config) -> ViewedClip:
    """Count a clip's tubelets and hash its files.

    Args:
        least: tubelets of a view, which the clip must have (T).

    Raises:
        SourceError: the recording cannot be read, or is too short for a view.
    """
    tubelets = sum(1 for _ in decode_tubelets(path, config))
    if tubelets < least:
        raise SourceError(f"{path} has {tubelets} tubelets, a view {least}: leave it out, or lower --tubelets")
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            _hash_file(file, digest)
    return ViewedClip(path, tubelets, digest.hexdigest())


def _hash_file(file: Path, digest: "hashlib._Hash") -> None:
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)


def show(
    views: Sequence[tuple[int, View]], clip: ViewedClip, tubelets: int, side: int, config: Config
) -> Iterator[Seen]:
    """Give the pictures of a clip's views, which are in the order of their starts, in one pass over the clip.

    Args:
        views: their numbers, and what they show.
        tubelets: of a view (T).
        side: of its pictures, in pixels.

    Raises:
        SourceError: the clip has become shorter than it was when it was surveyed.
    """
    waiting = deque((int(view.start * (clip.tubelets - tubelets + 1)), number, view) for number, view in views)
    newest: deque[DecodedTubelet] = deque(maxlen=tubelets)
    for n, tubelet in enumerate(decode_tubelets(clip.path, config)):
        newest.append(tubelet)
        while waiting and n == waiting[0][0] + tubelets - 1:
            _, number, view = waiting.popleft()
            pictures = np.stack([[apply(view, p, side) for p in (t.older, t.newer)] for t in newest])
            yield Seen(number, view, pictures, np.array([(t.older_ns, t.newer_ns) for t in newest]))
        if not waiting:
            return
    raise SourceError(f"{clip.path} has become shorter than it was: start the cache again in another folder")


def resize(picture: Picture, side: int) -> Picture:
    """Resize a square picture, averaging areas where it becomes smaller: (side, side, 3)."""
    how = cv2.INTER_AREA if len(picture) > side else cv2.INTER_LINEAR
    return cast("Picture", cv2.resize(picture, (side, side), interpolation=how))


def apply(view: View, picture: Picture, side: int) -> Picture:
    """Show a picture as the view has it: (H, W, 3) -> (side, side, 3)."""
    height, width = picture.shape[:2]
    crop = max(1, round(view.side * min(height, width)))
    top, left = round(view.top * (height - crop)), round(view.left * (width - crop))
    shown = resize(picture[top : top + crop, left : left + crop], side)
    shown = shown[:, ::-1] if view.mirrored else shown
    table = np.clip(np.outer(np.arange(256), view.gains) + 0.5, 0, 255).astype(np.uint8)  # (256, 3)
    return np.stack([table[shown[..., c], c] for c in range(3)], axis=-1)
