"""Conversion between ROS messages and the values that flow; fields and attributes of the same name correspond."""

import array
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header

from saccade_ros import __version__
from saccade_ros.backends.base import BackendError, EncoderInfo
from saccade_ros.config import Config
from saccade_ros.frames import EmbeddingResult, Picture
from saccade_ros.knobs import settings_of
from saccade_ros.msg import Embedding, NoveltyEvent
from saccade_ros.msg import EncoderInfo as EncoderInfoMessage
from saccade_ros.vision.overlay import changed_region, computed_overlay, novelty_overlay
from saccade_ros.vision.raw import Convert, convert_with_rosbags


def _same_names(message: Any, kind: type) -> list[str]:
    """Return the message's fields that are attributes of `kind`, too, other than arrays."""
    attributes = {attribute.name for attribute in fields(kind)}
    attributes |= {name for name, value in vars(kind).items() if isinstance(value, property)}
    types = message.get_fields_and_field_types().items()
    return [name for name, ros_type in types if name in attributes and not ros_type.startswith("sequence")]


def _settings_shown() -> dict[str, str]:
    """Return the setting that each other field of EncoderInfo shows: gate_tau shows gate.tau, fps stream.fps."""
    others = set(EncoderInfoMessage.get_fields_and_field_types()) - set(FROM_INFO)
    names = [setting.name for setting in settings_of(Config)]
    candidates = [(key, name) for name in names for key in (name.replace(".", "_"), name.partition(".")[2])]
    return {key: name for key, name in candidates if key in others}


# Decided at import, so that a message costs no more than its fields.
FROM_RESULT = _same_names(Embedding, EmbeddingResult)
FROM_INFO = _same_names(EncoderInfoMessage, EncoderInfo)
FROM_CONFIG = {key: attrgetter(name) for key, name in _settings_shown().items()}


def stamp_to_ns(stamp: Time) -> int:
    """Convert a ROS time to nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int) -> Time:
    """Convert nanoseconds to a ROS time."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def embedding_message(
    result: EmbeddingResult,
    header: Header,
    stream: str,
    encoder_id: str,
    normalized: bool,
    sequence: int,
    frames_dropped: int,
) -> Embedding:
    """Make the message of one tubelet; `total_ms` is set last, just before it is published."""
    return Embedding(
        header=header,
        stream=stream,
        encoder_id=encoder_id,
        # An array.array is taken as is (0.3 us); an ndarray would be checked value by value (51 us).
        vector=array.array("f", result.vector.tobytes()),
        normalized=normalized,
        encoded_stamp=ns_to_stamp(result.encoded_stamp_ns),
        sequence=sequence,
        frames_dropped=frames_dropped,
        **{name: getattr(result, name) for name in FROM_RESULT},
    )


def event_message(result: EmbeddingResult, header: Header, stream: str, encoder_id: str, least: float) -> NoveltyEvent:
    """Make the message of an onset. `result.onset` is true, so that its novelty and patches are there.

    Args:
        least: change from which on a patch is part of the event.
    """
    assert result.patch_novelty is not None
    x, y, width, height = changed_region(result.patch_novelty, result.view, least)
    return NoveltyEvent(
        header=header,
        stream=stream,
        encoder_id=encoder_id,
        novelty=result.novelty,
        tau=result.novelty_threshold,
        stream_epoch=result.stream_epoch,
        tubelet_index=result.tubelet_index,
        region=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height),
    )


def novelty_map_message(result: EmbeddingResult, header: Header) -> Image:
    """Make an image of the novelty, one 32FC1 pixel for each patch. `result.patch_novelty` is there."""
    novelty = result.patch_novelty
    assert novelty is not None
    rows, columns = novelty.shape
    data = array.array("B", novelty.astype("<f4").tobytes())
    return Image(header=header, height=rows, width=columns, encoding="32FC1", step=4 * columns, data=data)


def computed_map_message(result: EmbeddingResult, header: Header) -> Image:
    """Make an image of which tokens were computed, one mono8 pixel for each patch: 255 computed, 0 not."""
    mask = result.computed_mask  # (grid, grid)
    data = array.array("B", (mask * np.uint8(255)).tobytes())
    return Image(header=header, height=len(mask), width=len(mask), encoding="mono8", step=len(mask), data=data)


def overlay_message(result: EmbeddingResult, picture: Picture, header: Header, event_change: float) -> Image:
    """Make an rgb8 image of the newest picture, changed patches tinted and the computed ones outlined.

    Args:
        event_change: gate.event_change, from which on the tint has its full strength.
    """
    if result.patch_novelty is not None:
        picture = novelty_overlay(picture, result.patch_novelty, result.view, event_change)
    picture = computed_overlay(picture, result.computed_mask, result.view)
    height, width, _ = picture.shape
    data = array.array("B", picture.tobytes())
    return Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=data)


def info_message(info: EncoderInfo, config: Config, streams: Sequence[str]) -> EncoderInfoMessage:
    """Make the message of what is constant about a configured node, for ~/info."""
    return EncoderInfoMessage(
        package_version=__version__,
        streams=list(streams),
        token_counts=list(info.token_counts),
        normalized=config.encoder.normalize,
        **{name: getattr(info, name) for name in FROM_INFO},
        **{name: read(config) for name, read in FROM_CONFIG.items()},
    )


def find_converter() -> tuple[Convert, str]:
    """Choose cv_bridge where the robot has a working one, else rosbags-image; return the converter and its name.

    cv_bridge is a compiled module: built for another numpy it raises at import, and not only ImportError.

    Raises:
        BackendError: there is neither.
    """
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()
    except Exception as broken:  # AttributeError under numpy 2, ImportError where absent
        return _stand_in(broken)

    def convert_with_cv_bridge(message: Any, encoding: str) -> Any:
        """Convert a raw image message to an array in `encoding`."""
        return bridge.imgmsg_to_cv2(message, encoding)

    return convert_with_cv_bridge, "cv_bridge"


def _stand_in(broken: Exception) -> tuple[Convert, str]:
    try:
        import rosbags.image  # noqa: F401  # else it would be missed at the first image only
    except ImportError as missing:
        raise BackendError(
            f"images cannot be decoded: cv_bridge does not import ({type(broken).__name__}: {broken}), and its "
            f"stand-in is not installed ({missing}): pip install rosbags-image"
        ) from missing
    return convert_with_rosbags, f"rosbags-image (cv_bridge: {type(broken).__name__})"
