"""Messages hold what was computed: every field is filled, from the attribute or setting of its name."""

from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header

from saccade_ros.backends.base import EncoderInfo
from saccade_ros.config import Config, EncoderConfig, GateConfig, StreamConfig
from saccade_ros.frames import EmbeddingResult, TokenPlan, View
from saccade_ros.msg import Embedding
from saccade_ros.msg import EncoderInfo as EncoderInfoMessage
from saccade_ros.nodes import conversions

pytestmark = pytest.mark.ros

SAMPLES = {float: 0.5, int: 7, str: "word", bool: True}  # no field's default


def sample(kind, **others):
    """One of a dataclass whose plain attributes have no default value."""
    plain = {field.name: SAMPLES[field.type] for field in fields(kind) if field.type in SAMPLES}
    return kind(**plain, **others)


def unfilled(message) -> set[str]:
    """Fields that have the value of an empty message."""
    empty = type(message)()
    return {name for name in message.get_fields_and_field_types() if getattr(message, name) == getattr(empty, name)}


PLAN = TokenPlan(np.array([1, 2, 3]), "novelty")
RESULT = sample(
    EmbeddingResult, vector=np.arange(3, dtype=np.float32), plan=PLAN, patch_novelty=None, view=View(0, 0, 16, 32)
)
RESULT = replace(RESULT, tokens=4, tokens_computed=3)


def embedding() -> Embedding:
    header = Header(frame_id="camera")
    result = replace(RESULT, encoded_stamp_ns=1_500_000_000)
    return conversions.embedding_message(result, header, "/camera", "id", True, 4, 5)


def test_every_field_of_an_embedding_is_filled():
    message = embedding()
    assert unfilled(message) == {"total_ms"}, "which is set just before it is published"
    assert message.vector.tolist() == [0, 1, 2]
    assert (message.encoded_stamp.sec, message.encoded_stamp.nanosec) == (1, 500_000_000)
    assert (message.encoded, message.reason) == (True, "novelty")
    assert (message.tokens_computed, message.tokens) == (3, 4)
    for name in conversions.FROM_RESULT:
        assert getattr(message, name) == getattr(RESULT, name), name


def test_every_field_of_the_info_is_filled():
    info = sample(EncoderInfo, token_counts=(8, 64))
    config = Config(
        stream=StreamConfig(fps=8.0, max_gap_s=3.0),
        encoder=EncoderConfig(pooling="window", normalize=True),
        gate=GateConfig(tau=0.25, calibrated_for="id"),
    )
    message = conversions.info_message(info, config, ["/camera"])
    assert unfilled(message) == set()
    assert (message.model, message.window, message.fps, message.gate_tau) == ("word", 7, 8.0, 0.25)
    assert message.token_counts.tolist() == [8, 64]
    assert (message.pooling, message.normalized, message.gate_mode) == ("window", True, "fixed")
    assert message.tokens_select == "changed"


def test_computed_map_is_white_where_tokens_were_computed():
    message = conversions.computed_map_message(RESULT, Header(frame_id="camera"))
    assert (message.encoding, message.height, message.width, message.step) == ("mono8", 2, 2, 2)
    assert list(message.data) == [0, 255, 255, 255]
    reused = replace(RESULT, plan=TokenPlan.reuse())
    assert list(conversions.computed_map_message(reused, Header()).data) == [0, 0, 0, 0]


def test_debug_image_outlines_what_was_computed_where_no_novelty_is_measured():
    picture = np.full((16, 32, 3), 100, np.uint8)
    message = conversions.overlay_message(RESULT, picture, Header(), 0.4)
    shown = np.frombuffer(message.data, np.uint8).reshape(16, 32, 3)
    assert shown[8, 0].tolist() == [0, 255, 255]
    assert shown[4, 4].tolist() == [100, 100, 100], "the one patch that was not computed"


def test_no_two_settings_compete_for_a_field():
    shown = list(conversions._settings_shown())
    assert len(shown) == len(conversions.FROM_CONFIG)
    assert not set(shown) & set(conversions.FROM_INFO)
    assert set(shown) < set(EncoderInfoMessage.get_fields_and_field_types())


def test_messages_travel():
    message = embedding()
    assert deserialize_message(serialize_message(message), Embedding) == message
