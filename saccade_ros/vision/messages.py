"""Protocols of image messages: the attributes that are read, of rclpy's classes and of rosbags' alike."""

from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from array import array

Bytes: TypeAlias = "bytes | bytearray | memoryview | array[int] | npt.NDArray[np.uint8]"


class RawImage(Protocol):
    """sensor_msgs/Image."""

    @property
    def height(self) -> int:
        """Rows of pixels."""

    @property
    def width(self) -> int:
        """Pixels in a row."""

    @property
    def encoding(self) -> str:
        """Name of the pixel format, such as rgb8."""

    @property
    def is_bigendian(self) -> int:
        """Byte order of 16-bit samples: not 0 if the high byte comes first."""

    @property
    def step(self) -> int:
        """Bytes in a row, padding included."""

    @property
    def data(self) -> Bytes:
        """All rows, at least height * step bytes."""


@runtime_checkable
class CompressedImage(Protocol):
    """sensor_msgs/CompressedImage."""

    @property
    def format(self) -> str:
        """Compression, such as jpeg, perhaps with the encoding before and after it."""

    @property
    def data(self) -> Bytes:
        """The compressed file."""


def bytes_of(message: RawImage | CompressedImage) -> npt.NDArray[np.uint8]:
    """View the message's data as (bytes,), without a copy."""
    return np.frombuffer(message.data, np.uint8)
