"""Folder of pictures as a source: JPEG and PNG files as they are, by the times in their names or at a given rate."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from saccade_ros.recordings.serialized import compressed_message, serialize
from saccade_ros.recordings.source import COMPRESSED, RecordedImage, Source, SourceError

PICTURES_TOPIC = "/camera/image_raw/compressed"
_PLAYED = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
_OF_BAGS = {".yaml", ".mcap", ".db3"}
_OTHERS = {".bmp", ".gif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}
_UNITS_NS = {13: 10**6, 16: 10**3, 19: 1}  # of a time without a point, by its digits: milli-, micro- and nanoseconds
_SECONDS = re.compile(r"\d{1,10}\.\d{3,9}")


def holds_pictures(folder: Path) -> bool:
    """Tell whether a folder is one of pictures rather than a bag, be it an unfinished one."""
    kinds = {_kind(path) for path in folder.iterdir()}
    return not kinds.isdisjoint(_PLAYED) and kinds.isdisjoint(_OF_BAGS)


class PictureFolder(Source):
    """Pictures of a folder, in the order of their times, or of the numbers in their names.

    Args:
        rate_hz: pictures per second; 0 takes the times from the names, as in 1305031102.175304.png (seconds) and
            1403636579763555584.png (nanoseconds).

    Raises:
        SourceError: the names tell no times and there is no rate, or two times are the same; it holds pictures of
            other kinds, too; from iterating, a file cannot be read.
    """

    msgtype = COMPRESSED

    def __init__(self, folder: Path, topic: str | None = None, rate_hz: float = 0.0) -> None:
        self._folder, self.topic = folder, topic or PICTURES_TOPIC
        files = [path for path in folder.iterdir() if _kind(path) in _PLAYED]
        if others := sorted(path.name for path in folder.iterdir() if _kind(path) in _OTHERS):
            raise SourceError(
                f"{folder} holds pictures that are neither JPEG nor PNG, such as {others[0]}: make PNGs of them with "
                f"`mogrify -format png *{Path(others[0]).suffix}`, and take them away"
            )
        if rate_hz:
            ordered = sorted(files, key=_in_natural_order)
            self._files = [(round(place * 1e9 / rate_hz), file) for place, file in enumerate(ordered)]
        else:
            self._files = sorted((self._time_ns(file), file) for file in files)
        times_ns = [time_ns for time_ns, _ in self._files]
        if len(set(times_ns)) < len(times_ns):
            raise SourceError(f"{folder} has two pictures of one time: keep one of each")
        self.count, self.duration_s = len(files), (times_ns[-1] - times_ns[0]) / 1e9

    def __iter__(self) -> Iterator[RecordedImage]:
        for time_ns, file in self._files:
            try:
                data = np.frombuffer(file.read_bytes(), np.uint8)
            except OSError as error:
                raise SourceError(f"{file} cannot be read ({error.strerror}): see its permissions") from error
            if not data.size:
                raise SourceError(f"{file} is empty: it is cut; copy it again")
            message = compressed_message(time_ns, "camera", _PLAYED[_kind(file)], data)
            yield RecordedImage(time_ns, time_ns, "camera", message, serialize(message), COMPRESSED)

    def _time_ns(self, file: Path) -> int:
        """Time that a name tells, in nanoseconds."""
        name = file.stem
        if _SECONDS.fullmatch(name):
            seconds, _, fraction = name.partition(".")
            return int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
        if name.isdecimal() and not name.startswith("0") and len(name) in _UNITS_NS:
            return int(name) * _UNITS_NS[len(name)]
        raise SourceError(
            f"{self._folder} holds {file.name}, whose name is no time: give --picture-hz, the rate of the camera"
        )


def _kind(path: Path) -> str:
    return path.suffix.lower()


def _in_natural_order(path: Path) -> list[tuple[int, str]]:
    """Key that puts frame_10 behind frame_9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.findall(r"\d+|\D+", path.stem)]
