"""Settings: defaults that work, and errors that name the value and the remedy."""

import math
from dataclasses import fields

import pytest

from saccade_ros.config import (
    BackendConfig,
    Config,
    ConfigError,
    EncoderConfig,
    GateConfig,
    NodeConfig,
    StreamConfig,
    VisionConfig,
    knob_of,
)


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        (GateConfig, {"tau": -0.1}, "gate.tau is -0.1: give at least 0"),
        (GateConfig, {"tau": math.nan}, "gate.tau is nan: give a finite number"),
        (GateConfig, {"tau": "high"}, "gate.tau is 'high', a str: give a float"),
        (GateConfig, {"enabled": 1}, "gate.enabled is 1, a int: give a bool"),
        (GateConfig, {"top_share": 1.5}, "gate.top_share is 1.5: give at most 1"),
        (StreamConfig, {"fps": -4.0}, "stream.fps is -4.0"),
        (StreamConfig, {"fps": 4.0, "max_gap_s": 0.25}, "raise one of the two"),
        (EncoderConfig, {"window": 0}, "encoder.window is 0: give at least 1"),
        (EncoderConfig, {"window": 2.5}, "encoder.window is 2.5, a float: give a int"),
        (EncoderConfig, {"window": 4, "lookback": 5}, "encoder.lookback is 5, more than encoder.window 4"),
        (EncoderConfig, {"pooling": "max"}, "encoder.pooling is 'max': choose one of newest, window"),
        (EncoderConfig, {"model": ""}, "encoder.model is empty"),
        (BackendConfig, {"name": "tensorflow"}, "backend.name is 'tensorflow': choose one of torch"),
        (BackendConfig, {"precision": "fp8"}, "choose one of fp32, bf16"),
        (VisionConfig, {"fit": "zoom"}, "choose one of crop, stretch"),
        (NodeConfig, {"topics": ()}, "name at least one image topic"),
        (NodeConfig, {"topics": ("/a", "/a")}, "name each topic once"),
        (NodeConfig, {"topics": ("/a", "")}, "none of them empty"),
        (NodeConfig, {"output_topic": " "}, "node.output_topic is empty"),
    ],
)
def test_impossible_value_is_refused_by_name_with_the_remedy(section, values, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        section(**values)


def test_whole_number_serves_for_a_float():
    assert type(StreamConfig(fps=10).fps) is float  # type: ignore[arg-type]


def test_list_serves_for_a_tuple():
    assert NodeConfig(topics=["/a", "/b"]).topics == ("/a", "/b")  # type: ignore[arg-type]


def test_every_setting_is_described_and_sectioned():
    for section in fields(Config):
        assert section.default.prefix == section.name
        for setting in fields(section.default):
            assert knob_of(setting).description.endswith((".", ")")), setting.name


def test_only_what_can_change_live_is_live():
    live = [f"{s.name}.{k.name}" for s in fields(Config) for k in fields(s.default) if knob_of(k).live]
    assert live == ["gate.tau", "gate.max_skip_s"]
