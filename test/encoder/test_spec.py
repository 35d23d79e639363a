"""Sizes of a model are read without its weights."""

import pytest

from saccade_ros.config import ConfigError
from saccade_ros.encoder.spec import SIZES, read_spec
from saccade_ros.encoder.weights import load_encoder


def test_sizes_are_those_that_the_loader_builds():
    for model in ("default", "tiny"):
        assert read_spec(model) == load_encoder(model, window=2).encoder.spec
    assert read_spec("vitl") is SIZES["vitl"]


def test_sizes_of_what_is_no_model_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        read_spec(str(tmp_path))
    with pytest.raises(ConfigError, match=r"absent: no config\.json"):
        read_spec("absent")
