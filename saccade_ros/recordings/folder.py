"""Folder of a rosbag2: metadata.yaml, and the files that it names.

Only the names of the files and the counts are taken from metadata.yaml. What is in a file is read off the file, so
that an edited setting, such as a topic's QoS, hides nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from saccade_ros.recordings.stored import BagError, BagFile, Channel, StoredMessage
from saccade_ros.recordings.zstd import ZSTD_START, open_zstd


class FolderBag(BagFile):
    """Folder of a rosbag2, its files one after the other.

    Args:
        open_file: opens one of its files.

    Raises:
        BagError: there is no metadata.yaml, a file is missing, or the files hold fewer messages than it lists.
        What `open_file` raises.
    """

    def __init__(self, folder: Path, open_file: Callable[[Path], BagFile]) -> None:
        listed = _metadata(folder)
        with ExitStack() as opened:
            self._files: list[BagFile] = []
            for path in _listed_files(folder, listed):
                self._files.append(open_file(_unpacked(path, opened)))
                opened.callback(self._files[-1].close)
            self.channels = [channel for file in self._files for channel in file.channels]
            _check_counts(folder, listed, self.channels)
            self._opened = opened.pop_all()
        spans = [(file.first_ns, file.last_ns) for file in self._files if file.last_ns]
        self.first_ns = min((first for first, _ in spans), default=0)
        self.last_ns = max((last for _, last in spans), default=0)

    def close(self) -> None:
        """Close its files, and remove those that were unpacked."""
        self._opened.close()

    def messages(self, topic: str) -> Iterator[StoredMessage]:
        """Read a topic's messages file by file, in each in the order of their times."""
        for file in self._files:
            yield from file.messages(topic)


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        listed = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
    except FileNotFoundError as missing:
        raise BagError(
            "it has no metadata.yaml, so it is no finished rosbag2: give the bag's own folder, or let "
            f"`ros2 bag reindex {folder}` finish a recording that was interrupted"
        ) from missing
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as broken:
        reason = " ".join(str(broken).split())
        raise BagError(
            f"its metadata.yaml is cut or damaged ({reason}): `ros2 bag reindex {folder}` writes it anew"
        ) from broken
    if not isinstance(listed, dict) or not listed.get("relative_file_paths"):
        raise BagError(f"its metadata.yaml names no files: `ros2 bag reindex {folder}` writes it anew")
    return listed


def _listed_files(folder: Path, listed: dict[str, Any]) -> Iterator[Path]:
    """Find the files that metadata.yaml names, in this folder wherever it was recorded, also if unpacked since."""
    for name in listed["relative_file_paths"]:
        path = folder / Path(name).name
        found = path if path.exists() else path.with_suffix("")
        if not found.is_file():
            raise BagError(
                f"its file {path.name} is missing: copy it again; without it, let `ros2 bag reindex {folder}` write "
                "metadata.yaml anew"
            )
        yield found


def _unpacked(path: Path, opened: ExitStack) -> Path:
    """Unpack a file that was compressed as a whole; what is in it says so, not its name."""
    with path.open("rb") as file:
        if file.read(len(ZSTD_START)) != ZSTD_START:
            return path
    unpacked = Path(opened.enter_context(TemporaryDirectory())) / path.name
    with open_zstd(path, "rb") as packed, unpacked.open("wb") as target:
        copyfileobj(packed, target)
    return unpacked


def _check_counts(folder: Path, listed: dict[str, Any], channels: list[Channel]) -> None:
    """Refuse files that hold fewer messages than metadata.yaml lists: some may be lost. More are no fault."""
    held: Counter[str] = Counter()
    for channel in channels:
        held[channel.topic] += channel.count
    for topic in listed.get("topics_with_message_count") or []:
        name, count = topic["topic_metadata"]["name"], topic["message_count"]
        if held[name] < count:
            raise BagError(
                f"its files hold {held[name]} of the {count} messages on {name} that its metadata.yaml lists: copy it "
                f"again; if nothing is missing, `ros2 bag reindex {folder}` writes metadata.yaml anew"
            )
