"""Between ROS messages and the engine's values."""

import array
from collections.abc import Sequence
from typing import Any

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header

from saccade_ros import __version__
from saccade_ros.backends.base import BackendError, EncoderInfo
from saccade_ros.config import Config
from saccade_ros.frames import EmbeddingResult, Picture
from saccade_ros.msg import Embedding, NoveltyEvent
from saccade_ros.msg import EncoderInfo as EncoderInfoMessage
from saccade_ros.vision.overlay import changed_region, novelty_overlay
from saccade_ros.vision.raw import Convert, convert_with_rosbags


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds of a ROS time."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int) -> Time:
    """A ROS time from nanoseconds."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def embedding_message(
    result: EmbeddingResult,
    header: Header,
    stream: str,
    encoder_id: str,
    normalized: bool,
    sequence: int,
    frames_dropped: int,
    queue_ms: float,
) -> Embedding:
    """The message of one tubelet; `total_ms` is set last, just before it is published."""
    message = Embedding(header=header, stream=stream, encoder_id=encoder_id, normalized=normalized)
    # An array.array is taken as is (0.3 us); an ndarray would be checked value by value (51 us).
    message.vector = array.array("f", result.vector.tobytes())
    message.encoded = result.encoded
    message.novelty = result.novelty
    message.novelty_threshold = result.novelty_threshold
    message.encoded_stamp = ns_to_stamp(result.encoded_stamp_ns)
    message.reuse_count = result.reuse_count
    message.sequence = sequence
    message.stream_epoch = result.stream_epoch
    message.tubelet_index = result.tubelet_index
    message.window_fill = result.window_fill
    message.frames_dropped = frames_dropped
    message.queue_ms = queue_ms
    message.decode_ms = result.decode_ms
    message.gate_ms = result.gate_ms
    message.encode_ms = result.encode_ms
    message.reason = result.reason
    message.label = result.label
    message.score = result.score
    return message


def event_message(result: EmbeddingResult, header: Header, stream: str, encoder_id: str, tau: float) -> NoveltyEvent:
    """The message of an onset. `result.onset` is true, so that its novelty and patches are there."""
    assert result.patch_novelty is not None
    x, y, width, height = changed_region(result.patch_novelty, result.view, tau)
    return NoveltyEvent(
        header=header,
        stream=stream,
        encoder_id=encoder_id,
        novelty=result.novelty,
        tau=tau,
        stream_epoch=result.stream_epoch,
        tubelet_index=result.tubelet_index,
        region=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height),
    )


def novelty_map_message(result: EmbeddingResult, header: Header) -> Image:
    """Each patch's novelty as one 32FC1 pixel, as computed. `result.patch_novelty` is there."""
    novelty = result.patch_novelty
    assert novelty is not None
    rows, columns = novelty.shape
    data = array.array("B", novelty.astype("<f4").tobytes())
    return Image(header=header, height=rows, width=columns, encoding="32FC1", step=4 * columns, data=data)


def overlay_message(result: EmbeddingResult, picture: Picture, header: Header) -> Image:
    """The newest picture as rgb8 with the changed patches tinted."""
    if result.patch_novelty is not None:
        picture = novelty_overlay(picture, result.patch_novelty, result.view, result.novelty_threshold)
    height, width, _ = picture.shape
    data = array.array("B", picture.tobytes())
    return Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=data)


def info_message(info: EncoderInfo, config: Config, streams: Sequence[str]) -> EncoderInfoMessage:
    """The constant info, for ~/info."""
    return EncoderInfoMessage(
        package_version=__version__,
        encoder_id=info.encoder_id,
        model=info.model,
        weights=info.weights,
        weights_sha256=info.weights_sha256,
        backend=info.backend,
        device=info.device,
        precision=info.precision,
        threads=info.threads,
        input_size=info.input_size,
        fps=config.stream.fps,
        tubelet_size=info.tubelet_size,
        window=info.window,
        recompute=info.recompute,
        dim=info.dim,
        pooling=config.encoder.pooling,
        normalized=config.encoder.normalize,
        cache_bytes=info.cache_bytes,
        gate_enabled=config.gate.enabled,
        gate_tau=config.gate.tau,
        gate_top_fraction=config.gate.top_fraction,
        gate_max_skip_s=config.gate.max_skip_s,
        gate_mode=config.gate.mode,
        gate_calibrated_for=config.gate.calibrated_for,
        streams=list(streams),
        max_gap_s=config.stream.max_gap_s,
    )


def find_converter() -> tuple[Convert, str]:
    """cv_bridge where the robot has a working one, else rosbags-image; and the name of the choice.

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
