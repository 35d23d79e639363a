"""Image messages made here, good and bad; for all tests of images."""

import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest

from saccade_ros.vision import jpeg_decoding
from saccade_ros.vision.images import decode_image
from saccade_ros.vision.malformed import MalformedImage

MAX_PIXELS = 1_000_000


@dataclass(frozen=True)
class Image:
    """sensor_msgs/Image."""

    height: int = 1
    width: int = 2
    encoding: str = "rgb8"
    is_bigendian: int = 0
    step: int = 6
    data: Any = bytes(6)


@dataclass(frozen=True)
class Compressed:
    """sensor_msgs/CompressedImage."""

    data: Any = b""
    format: str = "jpeg"


def picture_of(message: Any) -> np.ndarray:
    picture = decode_image(message, MAX_PIXELS)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    return picture


def refusal(message: Any) -> MalformedImage:
    with pytest.raises(MalformedImage) as caught:
        decode_image(message, MAX_PIXELS)
    return caught.value


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth RGB picture: red grows to the right, green downwards, blue is 90."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([red, green, np.full_like(red, 90)], -1).astype(np.uint8)


def encoded(extension: str, rgb: np.ndarray | None = None, *options: int) -> bytes:
    picture = gradient() if rgb is None else rgb
    return cv2.imencode(extension, picture[..., ::-1] if picture.ndim == 3 else picture, options)[1].tobytes()


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + jpeg[2:]


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where compressed data is decoded: what is refused must be so before."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    if jpeg_decoding.simplejpeg is not None:
        monkeypatch.setattr(jpeg_decoding.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("it was decoded"))


def png_that_claims(width: int, height: int) -> bytes:
    png = bytearray(encoded(".png"))
    png[16:24] = struct.pack(">II", width, height)
    return bytes(png)


def jpeg_that_claims(width: int, height: int) -> bytes:
    jpeg = encoded(".jpg")
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]
