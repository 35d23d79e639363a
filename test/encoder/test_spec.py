"""Sizes of a model are read without its weights."""

import json

import pytest

from saccade_ros.config import ConfigError
from saccade_ros.encoder.spec import SIZES, ModelSpec, read_spec, spec_from_transformers, transformers_config
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


GOOD = {
    "model_type": "vjepa2",
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "crop_size": 128,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "frames_per_clip": 64,
    "layer_norm_eps": 1e-6,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_attention_heads": 0}, "heads 0 is outside 1"),
        ({"num_attention_heads": -3}, "heads -3 is outside 1"),
        ({"hidden_size": 0}, "hidden_size 0 and mlp_ratio 4.0: the MLP has no channel"),
        ({"num_hidden_layers": 20_000}, "depth 20000 is outside 1..256"),
        ({"num_hidden_layers": 0}, "depth 0 is outside"),
        ({"crop_size": 65536}, "input_size 65536 is outside"),
        ({"crop_size": 4096, "patch_size": 1}, "4096 patches along a side .* are too many"),
        ({"crop_size": 2048}, "128 patches along a side .* are too many"),
        ({"patch_size": 0}, "patch_size 0 is outside"),
        ({"hidden_size": 15360, "num_hidden_layers": 200}, "weights are too many"),
        ({"mlp_ratio": 900}, "mlp_width 172800 is outside"),
        ({"mlp_ratio": 0.001}, "the MLP has no channel"),
        ({"frames_per_clip": 10**9}, "frames_per_clip 1000000000 is outside"),
        ({"layer_norm_eps": 1.5}, "norm_eps 1.5 is outside"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps nan, of the wrong kind"),
        ({"hidden_size": 192.5}, "hidden_size 192.5, of the wrong kind"),
        ({"hidden_size": "192"}, "hidden_size '192', of the wrong kind"),
        ({"num_hidden_layers": True}, "num_hidden_layers True, of the wrong kind"),
        ({"crop_size": [128, 128]}, r"crop_size \[128, 128\], of the wrong kind"),
    ],
)
def test_sizes_that_no_encoder_has_are_refused_in_one_line(changes, said):
    with pytest.raises(ConfigError, match=said) as refused:
        spec_from_transformers("model", {**GOOD, **changes})
    assert "\n" not in str(refused.value)


def test_sizes_of_the_released_checkpoints_are_within_the_limits():
    for width, depth, heads, mlp, side in (
        (1408, 40, 22, 6144, 384),
        (1664, 48, 26, 8192, 512),
        (1664, 48, 26, 8192, 1024),
    ):
        assert ModelSpec("released", width, depth, heads, side, mlp).grid == side // 16


def test_what_is_null_or_left_out_is_what_transformers_takes(tmp_path):
    from transformers import VJEPA2Config

    optional = [key for key in GOOD if key not in ("model_type", "hidden_size")]
    written = {
        "model_type": "vjepa2",
        "hidden_size": 1024,
        **dict.fromkeys(optional),
        "hidden_act": None,
        "qkv_bias": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(written))
    spec, theirs = read_spec(str(tmp_path)), VJEPA2Config(hidden_size=1024)
    assert (spec.depth, spec.heads) == (theirs.num_hidden_layers, theirs.num_attention_heads)
    assert (spec.input_size, spec.patch_size) == (theirs.crop_size, theirs.patch_size)
    assert (spec.frames_per_clip, spec.norm_eps) == (theirs.frames_per_clip, theirs.layer_norm_eps)
    assert spec.mlp_width == int(1024 * theirs.mlp_ratio)
    assert spec == spec_from_transformers(tmp_path.name, {"model_type": "vjepa2", "hidden_size": 1024})


def test_config_that_nests_too_deep_or_is_too_large_is_refused(tmp_path):
    for content in ("[" * 100_000, json.dumps({"a": "x" * 20_000_001})):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"config\.json: (cannot be read|larger than)"):
            read_spec(str(tmp_path))


@pytest.mark.parametrize(("width", "mlp_width"), [(1408, 6144), (7, 61), (22, 96), (386, 1999)])
def test_saved_ratio_is_read_as_the_same_mlp_width(width, mlp_width):
    spec = ModelSpec("odd", width=width, depth=1, heads=1, mlp_width=mlp_width)
    assert spec_from_transformers("odd", transformers_config(spec)) == spec
