"""A recording encoded once, in full: what every gate, at every threshold, can then be judged from.

Each tubelet is encoded as if there were no gate, and kept with its patch embeddings and a grey picture. A gate is
then replayed over the patches alone, which takes a millisecond a tubelet in place of an encoder's step.

What that leaves out: under a real gate the cache holds only the encoded tubelets, so its embeddings differ a little
from those of the full stream. The audit of a running gate compares on the gated stream's own cache; `saccade calibrate`
ends with such an audit, and states both.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.backends import Backend
from saccade_ros.config import Config
from saccade_ros.frames import Frame, Tubelet
from saccade_ros.recordings.source import Source
from saccade_ros.vision.images import decode_image
from saccade_ros.vision.ledger import FrameLedger
from saccade_ros.vision.malformed import MalformedImage
from saccade_ros.vision.preprocess import resize_to_square, tubelet_pixels
from saccade_ros.vision.tubelet import TubeletBuffer


@dataclass(frozen=True)
class Trace:
    """Everything about T tubelets of one recording.

    Attributes:
        features: patch embeddings, (T, S, D), in a file that vanishes with this object.
        vectors: the embedding of each, fresh, from a cache that saw all tubelets, (T, dim).
        grey: newest picture of each as the encoder sees it, (T, size, size), uint8.
        stamps_ns: (T,).
        epochs: (T,); a new one has an empty cache.
        events: tubelets in which something new appears, where that is known.
    """

    name: str
    features: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.float32]
    grey: npt.NDArray[np.uint8]
    stamps_ns: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    events: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def part(self, start: int, stop: int, name: str) -> "Trace":
        """Tubelets start..stop as a trace of its own."""
        cut = slice(start, stop)
        events = tuple(event - start for event in self.events if start <= event < stop)
        stamps_ns, epochs = self.stamps_ns[cut], self.epochs[cut]
        return Trace(name, self.features[cut], self.vectors[cut], self.grey[cut], stamps_ns, epochs, events)

    def warm(self, window: int) -> npt.NDArray[np.bool_]:
        """Tubelets whose cache is still filling, (T,): every gate encodes them and none is judged by them."""
        starts = np.flatnonzero(np.diff(self.epochs, prepend=-1))
        since = np.arange(len(self)) - starts[np.searchsorted(starts, np.arange(len(self)), "right") - 1]
        warm: npt.NDArray[np.bool_] = since <= window
        return warm


def frames_of(source: Source, max_pixels: int) -> Iterator[Frame]:
    """The decodable frames of a recording."""
    for recorded in source:
        with suppress(MalformedImage):  # counted by the replay; here the others are what matters
            yield Frame(decode_image(recorded.image, max_pixels), recorded.stamp_ns, recorded.frame_id)


def record(
    name: str,
    frames: Iterable[Frame],
    config: Config,
    backend: Backend,
    event_frames: Iterable[int] = (),
    progress: Callable[[], object] = lambda: None,
) -> Trace:
    """Encode every tubelet.

    Args:
        event_frames: numbers of the frames in which something new appears.
        progress: called after each tubelet.

    Raises:
        ValueError: there is no tubelet at all.
    """
    buffer: TubeletBuffer[tuple[int, Frame]] = TubeletBuffer(config.stream, FrameLedger())
    state, size, fit = backend.new_state(), backend.info.input_size, config.vision.fit
    rows: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], Tubelet[tuple[int, Frame]]]] = []
    shape: tuple[int, ...] = ()
    with tempfile.TemporaryFile() as file:
        for number, frame in enumerate(frames):
            tubelet = buffer.push((number, frame), frame.stamp_ns, frame.frame_id, frame.picture.shape[:2])
            if tubelet is None:
                continue
            if rows and tubelet.epoch != rows[-1][2].epoch:
                state.reset()
            older, newer = tubelet.older[1].picture, tubelet.newer[1].picture
            patches, features = backend.embed(tubelet_pixels(older, newer, size, fit))
            shape = features.shape
            file.write(np.ascontiguousarray(features, np.float32).data)
            grey = cv2.cvtColor(resize_to_square(newer, size, fit), cv2.COLOR_RGB2GRAY).astype(np.uint8)
            rows.append((state.step(patches).copy(), grey, _without_pictures(tubelet)))
            progress()
        if not rows:
            raise ValueError(f"{name}: not one tubelet; is stream.fps {config.stream.fps} right for it?")
        file.flush()
        features_of_all = np.memmap(file, np.float32, "r", shape=(len(rows), *shape))
    vectors, greys, tubelets = zip(*rows, strict=True)
    numbers = [tubelet.newer[0] for tubelet in tubelets]
    return Trace(
        name,
        features_of_all,
        np.stack(vectors),
        np.stack(greys),
        np.array([tubelet.stamp_ns for tubelet in tubelets]),
        np.array([tubelet.epoch for tubelet in tubelets]),
        tuple(int(np.searchsorted(numbers, event)) for event in event_frames if event <= numbers[-1]),
    )


def _without_pictures(tubelet: Tubelet[tuple[int, Frame]]) -> Tubelet[tuple[int, Frame]]:
    """The tubelet's place in time, without its pictures, which would fill the memory."""
    empty = np.zeros((0, 0, 3), np.uint8)
    older, newer = ((number, Frame(empty, f.stamp_ns, f.frame_id)) for number, f in (tubelet.older, tubelet.newer))
    return Tubelet(older, newer, tubelet.stamp_ns, tubelet.frame_id, tubelet.epoch, tubelet.index)
