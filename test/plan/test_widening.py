"""The warning where tokens are selected and only whole tubelets can be computed: which cause it names."""

import pytest

from saccade_ros.config import Config, EncoderConfig, TokensConfig
from saccade_ros.plan.widening import explain_widening

AREAS = {"area_grid": "2x2", "area_layers": 2}


@pytest.mark.parametrize(
    ("encoder", "runtime", "device", "cause"),
    [
        ({"recompute": 2}, "torch", "cpu", "encoder.recompute is 2"),
        ({"window": 1}, "onnxruntime", "cpu", "encoder.window is 1"),
        ({"merge": 4}, "torch", "cuda", "encoder.merge is 4"),
        (AREAS, "torch", "cuda", "encoder.area_grid is 2x2"),
        ({}, "tensorrt", "cuda", "this export for tensorrt has no sparse step"),
    ],
)
def test_cause_and_remedy_are_named(encoder, runtime, device, cause):
    told = explain_widening(Config(encoder=EncoderConfig(**encoder)), runtime, device, (256,))
    assert cause in told
    assert "tokens.select is 'changed'" in told
    assert "all 256 tokens" in told


def test_nothing_is_told_where_the_encoder_follows_or_all_are_wanted():
    assert explain_widening(Config(), "torch", "cpu", ()) == ""
    assert explain_widening(Config(), "tensorrt", "cuda", (32, 64, 128, 256)) == ""
    assert explain_widening(Config(tokens=TokensConfig(select="all")), "torch", "cpu", (256,)) == ""
