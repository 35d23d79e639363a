"""Settings: defaults that work, and errors that name the value and the remedy."""

import math
import re
from dataclasses import fields
from pathlib import Path

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
)
from saccade_ros.knobs import settings_of
from saccade_ros.params_file import load_config, params_file_text


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        (GateConfig, {"tau": -0.1}, "gate.tau is -0.1: give at least 0"),
        (GateConfig, {"tau": math.nan}, "gate.tau is nan: give a finite number"),
        (GateConfig, {"tau": "high"}, "gate.tau is 'high' (str): give a value of type float"),
        (GateConfig, {"enabled": 1}, "gate.enabled is 1 (int): give a value of type bool"),
        (GateConfig, {"top_fraction": 1.5}, "gate.top_fraction is 1.5: give at most 1"),
        (GateConfig, {"mode": "free"}, "gate.mode is 'free': choose one of fixed, budget"),
        (GateConfig, {"budget_fraction": 0.0}, "gate.budget_fraction is 0.0: give at least 0.001"),
        (GateConfig, {"tau_min": 2.0, "tau_max": 1.0}, "gate.tau_min is 2.0, more than gate.tau_max 1.0"),
        (GateConfig, {"shadow_rate": 1.1}, "gate.shadow_rate is 1.1: give at most 1"),
        (StreamConfig, {"fps": -4.0}, "stream.fps is -4.0"),
        (StreamConfig, {"fps": 4.0, "max_gap_s": 0.25}, "raise one of the two"),
        (EncoderConfig, {"window": 0}, "encoder.window is 0: give at least 1"),
        (EncoderConfig, {"window": 2.5}, "encoder.window is 2.5 (float): give a value of type int"),
        (EncoderConfig, {"window": 4, "recompute": 5}, "encoder.recompute is 5, more than encoder.window 4"),
        (EncoderConfig, {"pooling": "max"}, "encoder.pooling is 'max': choose one of newest, window"),
        (EncoderConfig, {"model": ""}, "encoder.model is empty"),
        (EncoderConfig, {"area_grid": "2 by 2"}, "encoder.area_grid is '2 by 2': give rows x columns, such as 2x2"),
        (EncoderConfig, {"area_grid": "0x2"}, "encoder.area_grid is '0x2'"),
        (EncoderConfig, {"merge": 4, "area_grid": "2x2", "area_layers": 1}, "merged tokens have no area; set merge 0"),
        (EncoderConfig, {"area_layers": -1}, "encoder.area_layers is -1: give at least 0"),
        (
            BackendConfig,
            {"name": "tensorflow"},
            "backend.name is 'tensorflow': choose one of auto, torch, onnxruntime, openvino, tensorrt",
        ),
        (BackendConfig, {"precision": "fp8"}, "choose one of auto, fp32, bf16, fp16, int8"),
        (VisionConfig, {"fit": "zoom"}, "choose one of crop, stretch"),
        (NodeConfig, {"topics": ()}, "name at least one image topic"),
        (NodeConfig, {"topics": ("/a", "/a")}, "name each topic once"),
        (NodeConfig, {"topics": ("/a", "")}, "none of them empty"),
        (NodeConfig, {"output_topic": " "}, "node.output_topic is empty"),
    ],
)
def test_impossible_value_is_refused_by_name_with_the_remedy(section, values, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        section(**values)


def test_every_setting_is_described_and_sectioned():
    for section in fields(Config):
        assert section.default.prefix == section.name
    for setting in settings_of(Config):
        assert setting.knob.description.endswith((".", ")")), setting.name


def test_only_what_can_change_live_is_live():
    live = [setting.name for setting in settings_of(Config) if setting.knob.live]
    gate = [
        "gate.tau",
        "gate.event_change",
        "gate.max_skip_s",
        "gate.budget_fraction",
        "gate.budget_hz",
        "gate.shadow_rate",
    ]
    tokens = ["tokens.threshold", "tokens.ratio", "tokens.psnr_db", "tokens.max_age_s", "tokens.dilate"]
    assert live == gate + tokens


# Parameter files

SHIPPED = Path(__file__).parents[1] / "config"


@pytest.mark.parametrize("name", ["encoder.yaml", "demo.yaml"])
def test_shipped_files_load(name):
    config = load_config(SHIPPED / name)
    assert (config == Config()) == (name == "encoder.yaml")


def test_overrides_win_and_are_yaml():
    config = load_config(SHIPPED / "demo.yaml", {"gate.tau": "0.5", "node.topics": "[/a, /b]", "stream.fps": "8"})
    assert (config.gate.tau, config.node.topics, config.stream.fps) == (0.5, ("/a", "/b"), 8.0)
    assert config.backend.threads == 1, "of the file"


def test_what_neither_file_nor_override_names_is_as_in_the_base():
    base = Config(encoder=EncoderConfig(model="vits", window=4))
    config = load_config(overrides={"encoder.window": "2", "stream.fps": "0"}, base=base)
    assert (config.encoder.model, config.encoder.window, config.stream.fps) == ("vits", 2, 0.0)


@pytest.mark.parametrize("text", ["[", "a: b: c", "@home", "2026-13-01"])
def test_override_that_is_no_yaml_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=r"node\.topics=.* is no YAML .* in quotes"):
        load_config(overrides={"node.topics": text})


@pytest.mark.parametrize(
    "text", ["/a/run #3/vitl", "a: b: c", "[", "@home", "null", "1e5", "yes", "~", "it's", "-", ""]
)
def test_override_of_a_text_is_taken_as_it_is(text):
    """On a command line ` #` begins no comment, and a name that looks like a number is a name."""
    assert load_config(overrides={"gate.calibrated_for": text}).gate.calibrated_for == text


@pytest.mark.parametrize(("text", "value"), [("'a #b'", "a #b"), ('"a\\tb"', "a\tb"), ("''", ""), ("'it''s'", "it's")])
def test_override_of_a_text_in_quotes_is_yaml(text, value):
    assert load_config(overrides={"gate.calibrated_for": text}).gate.calibrated_for == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/**: {ros__parameters: {gate: {thau: 0.5}}}", "gate.thau is no setting: did you mean gate.tau"),
        ("/**: {ros__parameters: {gate: {tau: high}}}", "gate.tau is 'high'"),
        ("gate: {tau: 0.5}", "no ros__parameters under a node name"),
        ("just words", "no ros__parameters"),
        ("", "no ros__parameters"),
        ("a: [", "is no YAML"),
        ("a: 2026-13-01", "is no YAML .month must be in"),
        ("a: &x 1\n/**: {ros__parameters: {gate: {tau: *x}}}", r"has the alias \*x, which ROS refuses"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", r"has the alias \*a"),
        ("[" * 100_000, "nested more than 20 deep"),
        ("\n".join(" " * i + "a:" for i in range(500)), "nested more than 20 deep"),
        ("#" * 2_000_000, "is longer than 1048576 bytes"),
        ("/**: {ros__parameters: {" + "x" * 1000 + ": 1}}", "is no setting"),
        ("/**: {ros__parameters: {gate: {tau: " + "x" * 100_000 + "}}}", r"\.\.\. \(100002 characters\)"),
        ("/**: {ros__parameters: {gate: {mode: " + "x" * 100_000 + "}}}", r"\.\.\. \(100002 characters\)"),
    ],
)
def test_file_that_is_wrong_is_refused_with_the_remedy(tmp_path, text, said):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        load_config(file)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 3000


def test_file_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("file", ["/dev/zero", "/proc/self/mem"])
def test_file_without_end_is_refused(file):
    with pytest.raises(ConfigError, match=f"{file}: (is longer than|cannot be read)"):
        load_config(file)


def test_written_file_is_read_as_it_was_and_no_part_of_it_loads(tmp_path):
    """A calibration that is cut must not load without what ties it to its encoder."""
    file = tmp_path / "params.yaml"
    sections = {"gate": {"tau": 1e-05, "calibrated_for": "a: #{b}", "centre": "x" * 3000}, "stream": {"fps": 0.0}}
    text = params_file_text({**sections, "node": {"topics": ["/a", "/b"]}}, "for\nvitl: {x}")
    file.write_text(text)
    config = load_config(file)
    assert {name: getattr(config.gate, name) for name in sections["gate"]} == sections["gate"]
    assert (config.stream.fps, config.node.topics) == (0.0, ("/a", "/b"))
    for end in range(len(text) - 2):
        file.write_text(text[:end])
        with pytest.raises(ConfigError):
            load_config(file)


def test_rclpys_own_parameters_are_passed_over(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("/**: {ros__parameters: {use_sim_time: true, qos_overrides: {/a: {depth: 1}}}}")
    assert load_config(file) == Config()
