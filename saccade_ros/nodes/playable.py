"""Recording made ready to be played over ROS 2: a video as a bag, topics under names that ROS 2 allows."""

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from saccade_ros.measure.progress import ProgressBar
from saccade_ros.nodes.topic_name import playable_topic
from saccade_ros.recordings import image_topics, is_video, open_source
from saccade_ros.recordings.bag_writer import write_bag
from saccade_ros.recordings.source import Source

ALL = "all"


@dataclass(frozen=True)
class Playable:
    """Bag or folder of pictures, one open source for each topic that is played.

    Attributes:
        recorded_topics: names in the recording; the sources have those to play on.
    """

    path: Path
    sources: list[Source]
    recorded_topics: list[str]

    @property
    def topics(self) -> list[tuple[str, str]]:
        """Names to play on, and message types."""
        return [(source.topic, source.msgtype) for source in self.sources]

    @property
    def renamed(self) -> list[tuple[str, str]]:
        """Recorded names, and those to play on."""
        return [(recorded, source.topic) for recorded, source in zip(self.recorded_topics, self.sources, strict=True)]

    @property
    def duration_s(self) -> float:
        """Length of the recording."""
        return max(source.duration_s or 0.0 for source in self.sources)


def open_playable(
    path: Path, topics: tuple[str, ...], picture_hz: float, out: Path, console: Console, opened: ExitStack
) -> Playable:
    """Open the recording to play; a video is written as a bag first, in the folder `out`.

    Args:
        topics: none where the recording has one; ALL for every one.
        opened: closes the sources.

    Raises:
        SourceError: it cannot be read, or a topic is not there.
        ValueError: ROS 2 allows no name near a topic's, or one for two topics.
    """
    path = as_bag(path, out, console)
    wanted: list[str | None] = list(image_topics(path) if topics == (ALL,) else topics)
    sources = [opened.enter_context(open_source(path, topic, picture_hz)) for topic in wanted or [None]]
    playable = Playable(path, sources, [source.topic for source in sources])
    for source in sources:
        source.topic = playable_topic(source.topic)
    for recorded, played in playable.renamed:
        if recorded != played:
            console.print(f"{recorded} is no topic name of ROS 2: played on {played}", soft_wrap=True)
    if len({source.topic for source in sources}) < len(sources):
        raise ValueError(f"{', '.join(playable.recorded_topics)} would be played on one topic: choose one with --topic")
    return playable


def as_bag(path: Path, out: Path, console: Console) -> Path:
    """Find what to play: `path` itself, or a bag written once from the video that it is.

    Its name holds a digest of the video's path, size and time: a video that changed gets another bag, and nobody
    else's folder is taken for it.
    """
    if not is_video(path):
        return path
    video = f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}"
    bag = out / f"{path.stem}_{hashlib.sha256(video.encode()).hexdigest()[:8]}_bag"
    if bag.exists():
        console.print(f"playing {bag}, written from {path.name} before", soft_wrap=True)
        return bag
    with ProgressBar(console) as progress:
        frames = write_bag(path, bag, progress=progress)
    console.print(f"wrote {bag}: {frames} frames of {path.name}", soft_wrap=True)
    return bag
