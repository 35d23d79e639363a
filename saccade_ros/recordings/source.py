"""Source of recorded images: the base of bags and videos, and the value that they give."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from saccade_ros.vision.images import Image

RELIABLE, BEST_EFFORT = "reliable", "best_effort"
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class SourceError(ValueError):
    """A recording that cannot be read, or not to its end. The message names the value and the remedy."""


@dataclass(frozen=True, slots=True)
class RecordedImage:
    """One image of a recording.

    Attributes:
        stamp_ns: the header's stamp.
        time_ns: when the bag received it; of a video, the stamp.
        frame_id: the header's.
        image: message of a bag, or picture of a video.
        cdr: the image's message as ROS 2 sends it, which is as a bag of ROS 2 stores it; None from a video.
        msgtype: sensor_msgs/msg/Image, also of a picture, or sensor_msgs/msg/CompressedImage.
    """

    stamp_ns: int
    time_ns: int
    frame_id: str
    image: Image
    cdr: bytes | None
    msgtype: str


class Source(ABC):
    """One stream of images. Each iteration starts at the beginning.

    Attributes:
        topic: of the messages; may be set to another name to play them under.
        msgtype: of the messages.
        count: frames as the recording lists them, None where it does not; decoders may lose one at the end.
        duration_s: of the recording, None where it does not say.
        reliability: reliable or best_effort, as the messages were recorded; "" where the recording does not say.
    """

    topic: str
    msgtype: str
    count: int | None
    duration_s: float | None
    reliability: str = ""

    @abstractmethod
    def __iter__(self) -> Iterator[RecordedImage]:
        """Read the images in the order in which they were recorded; raise SourceError where that ends early."""

    def close(self) -> None:  # noqa: B027  # nothing to close is the common case
        """Let go of the recording."""

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
