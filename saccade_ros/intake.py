"""Receiving half of a stream: frames sampled and paired; the newest complete tubelet waits to be encoded."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress

from saccade_ros.config import Config
from saccade_ros.faults import strike
from saccade_ros.frames import Frame, Picture, Tubelet
from saccade_ros.vision.images import Convert, Levels, MalformedImage, check_image, convert_with_rosbags, decode_image
from saccade_ros.vision.ledger import FrameLedger
from saccade_ros.vision.target import WHOLE, Target
from saccade_ros.vision.tubelet import TubeletBuffer

_log = logging.getLogger(__name__)


class Intake:
    """Samples and pairs the frames of a stream; the newest complete tubelet waits to be taken.

    Safe to use from the thread that receives and the one that encodes.

    Args:
        convert: decodes raw image messages.
        name, warn: see Pipeline and Pipeline.open_stream.

    Attributes:
        ledger: account of every frame.
        active: False refuses frames.
    """

    def __init__(
        self,
        config: Config,
        convert: Convert = convert_with_rosbags,
        name: str = "",
        warn: Callable[[str], object] = _log.warning,
    ) -> None:
        self.ledger = FrameLedger()
        self._buffer = TubeletBuffer(config.stream, self.ledger)
        self._max_pixels, self._convert = round(config.vision.max_megapixels * 1e6), convert
        black, white = config.vision.mono16_range
        self._both = _in_turn if config.backend.threads == 1 else _at_once
        self._levels = Levels(black, white, name or "the camera", warn)
        self._lock = threading.Lock()
        self._waiting: Tubelet | None = None
        self._is_fresh = True  # no tubelet has been taken since the stream started afresh
        self.active = True

    @property
    def waiting(self) -> bool:
        """True while a complete tubelet waits."""
        return self._waiting is not None

    def offer(self, frame: Frame) -> bool:
        """Take one frame, in constant time: no pixel is read.

        Returns:
            True if it completed a tubelet, which replaces one that still waited.

        Raises:
            MalformedImage: the image cannot be right by its header; it is counted.
        """
        try:
            size = check_image(frame.image, self._max_pixels)
        except MalformedImage as malformed:
            self.ledger.refuse(malformed.cause, str(malformed))
            raise
        with self._lock:
            if not self.active:
                self.ledger.refuse("inactive")
                return False
            tubelet = self._buffer.push(frame, size)
            if tubelet is None:
                return False
            if self._waiting is not None:
                self.ledger.drop("overflow", 2)
            self._waiting = tubelet
            return True

    def take(self) -> Tubelet | None:
        """Hand over the waiting tubelet, if any."""
        with self._lock:
            tubelet, self._waiting = self._waiting, None
            if tubelet is not None and tubelet.epoch == self._buffer.epoch:
                self._is_fresh = False
            return tubelet

    def tubelets(self, frames: Iterable[Frame]) -> Iterator[Tubelet]:
        """Offer frames one after the other; yield each tubelet. Malformed frames are counted and passed over."""
        for frame in frames:
            with suppress(MalformedImage):
                self.offer(frame)
            if (tubelet := self.take()) is not None:
                yield tubelet

    def decode(self, frame: Frame, target: Target = WHOLE) -> Picture:
        """Decode a frame's image to RGB uint8 (height, width, 3), as `target` wants it.

        Raises:
            MalformedImage: it cannot be decoded.
        """
        strike("decode")
        return decode_image(frame.image, self._max_pixels, self._convert, self._levels, target)

    def decode_pair(self, tubelet: Tubelet, target: Target) -> tuple[Picture, Picture]:
        """Decode the older and the newer image of a tubelet, at once unless backend.threads is 1; see `decode`."""
        return self._both(lambda: self.decode(tubelet.older, target), lambda: self.decode(tubelet.newer, target))

    def resume(self) -> None:
        """Take frames from now on."""
        with self._lock:
            self.active = True

    def pause(self) -> None:
        """Refuse frames from now on, drop what waits, and start afresh at the next frame that is taken."""
        with self._lock:
            self.active = False
            self._reset("deactivated")

    def reset(self, reason: str) -> None:
        """Drop what waits; the next tubelet begins a new epoch."""
        with self._lock:
            self._reset(reason)

    def restart(self) -> None:
        """Reset on request, but not before a tubelet has been taken since the last start.

        The stream is fresh until then, and requests at any rate leave it time to complete one.
        """
        with self._lock:
            if not self._is_fresh:
                self._reset("request")

    def _reset(self, reason: str) -> None:
        self._is_fresh = True
        if self._waiting is not None:
            self.ledger.drop("reset", 2)
            self._waiting = None
        self._buffer.reset(reason)


def _in_turn(first: Callable[[], Picture], second: Callable[[], Picture]) -> tuple[Picture, Picture]:
    """Call both, one after the other."""
    return first(), second()


def _at_once(first: Callable[[], Picture], second: Callable[[], Picture]) -> tuple[Picture, Picture]:
    """Call the first on a thread of its own, and the second; raise what the first raises, else what the second does.

    The thread is a new one each time (a tenth of a millisecond) and a daemon: no stream holds one that must be ended,
    and a decoder that hangs keeps no process alive.
    """
    future: Future[Picture] = Future()
    threading.Thread(target=_resolve, args=(future, first), name="decode", daemon=True).start()
    try:
        newer = second()
    finally:
        older = future.result()
    return older, newer


def _resolve(future: Future[Picture], call: Callable[[], Picture]) -> None:
    try:
        future.set_result(call())
    except BaseException as failed:  # noqa: BLE001  # whatever it is: raised again where it is waited for
        future.set_exception(failed)
