"""Launch arguments are the settings: no name, default or type of their own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from saccade_ros.config import Config, ConfigError
from saccade_ros.export.options import ExportOptions
from saccade_ros.knobs import build, settings_of
from saccade_ros.nodes.launch_arguments import (
    ENCODER_ARGUMENTS,
    encoder_arguments,
    encoder_parameters,
    export_arguments,
    export_parameters,
    read_bool,
    read_choice,
    read_file,
    read_path,
    unknown_arguments,
)

LAUNCH = Path(__file__).parents[2] / "launch"


def test_encoder_arguments_name_settings_and_are_empty_by_default():
    assert set(ENCODER_ARGUMENTS.values()) <= {setting.name for setting in settings_of(Config)}
    assert {argument.default for argument in encoder_arguments()} == {""}
    (backend,) = (argument for argument in encoder_arguments() if argument.name == "backend")
    assert "One of auto, torch, onnxruntime, openvino, tensorrt. Empty: as in params_file." in backend.description


def test_what_is_empty_stays_as_in_the_file():
    given = dict.fromkeys(ENCODER_ARGUMENTS, "") | {"topics": "/a, /b/compressed ,", "model": "tiny"}
    assert encoder_parameters(given) == {"node.topics": ["/a", "/b/compressed"], "encoder.model": "tiny"}


def test_export_arguments_at_their_defaults_are_the_default_options():
    arguments = export_arguments()
    needed = {"model": "tiny", "out": "x", "calibration": "clip.mp4"}
    assert {argument.name for argument in arguments if argument.default is None} == set(needed)
    texts = {argument.name: argument.default for argument in arguments} | needed
    assert build(ExportOptions, export_parameters(texts)) == ExportOptions(**needed)


def test_export_arguments_become_parameters_of_their_type():
    texts = {"formats": "onnx,tensorrt", "window": "4", "fidelity_floor": "0.9", "force": "TRUE", "out": "/models/x"}
    expected = {"out": "/models/x", "formats": ["onnx", "tensorrt"], "window": 4, "fidelity_floor": 0.9, "force": True}
    assert export_parameters(texts) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backend": "trt"}, "backend is 'trt': choose one of auto, torch"),
        ({"device": "tpu"}, "device is 'tpu': choose one of auto, cpu, cuda, gpu, npu"),
        ({"precision": "half"}, "precision is 'half': choose one of"),
        ({"threads": "two"}, "threads is 'two': give a whole number"),
        ({"threads": "-1"}, "threads is -1: give at least 0"),
    ],
)
def test_encoder_argument_that_cannot_be_is_refused_by_its_name(given, said):
    with pytest.raises(ConfigError, match=said):
        encoder_parameters(dict.fromkeys(ENCODER_ARGUMENTS, "") | given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"formats": "onnx,tflite"}, "formats is 'tflite': choose"),
        ({"window": "8.5"}, "window is '8.5': give a whole number"),
        ({"fidelity_floor": "high"}, "fidelity_floor is 'high': give a number"),
        ({"fidelity_floor": "nan"}, "fidelity_floor is nan: give a finite number"),
        ({"force": "yes"}, "force is 'yes': give true or false"),
    ],
)
def test_export_argument_that_cannot_be_is_refused_by_its_name(given, said):
    with pytest.raises(ConfigError, match=said):
        export_parameters(given)


@pytest.mark.parametrize("text", ["yes", "on", "", "y", "2", "tru"])
def test_only_true_and_false_are_true_and_false(text):
    assert [read_bool("x", word) for word in ("true", "True", "1", " false", "FALSE", "0")] == [True] * 3 + [False] * 3
    with pytest.raises(ConfigError, match=r"use_sim_time is .*: give true or false"):
        read_bool("use_sim_time", text)


def test_file_and_level_that_are_not_there_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"params_file is '.*absent\.yaml', which cannot be read \(No such file"):
        read_file("params_file", str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match=r"params_file is .* \(Is a directory\)"):
        read_file("params_file", str(tmp_path))
    with pytest.raises(ConfigError, match="log_level is 'verbose': choose one of debug, info"):
        read_choice("log_level", "verbose", ("debug", "info"))


def test_recording_may_be_a_file_or_a_folder_and_must_be_there(tmp_path):
    assert read_path("bag", f" {tmp_path} ") == str(tmp_path)
    (tmp_path / "run#1.mcap").touch()
    assert read_path("bag", f"{tmp_path}/run#1.mcap").endswith("run#1.mcap")
    for absent in (str(tmp_path / "absent"), "", "  "):
        with pytest.raises(ConfigError, match=r"bag is .*, which does not exist: give a file or folder"):
            read_path("bag", absent)


def test_argument_like_one_of_ours_is_named_with_it_and_others_are_let_be():
    known = ("topics", "model", "log_level")
    warnings = unknown_arguments(["topics", "topcs", "loglevel", "map", "use_rviz"], known)
    assert [warning.partition(" is no ")[0] for warning in warnings] == ["topcs", "loglevel"]
    assert warnings[0].endswith("is topics meant?")


@pytest.mark.parametrize("file", sorted(LAUNCH.glob("*.launch.py")), ids=lambda file: file.name)
def test_launch_file_compiles_and_imports_what_there_is(file):
    """launch_ros is not everywhere; what the file takes from this package is."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    compile(tree, str(file), "exec")
    ours = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("saccade_ros")
    ]
    exec(compile(ast.Module(ours, []), str(file), "exec"), {})


def test_arguments_need_neither_ros_nor_a_runtime():
    code = "import sys, saccade_ros.nodes.launch_arguments; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"rclpy", "launch", "torch", "numpy", "onnxruntime"} & set(loaded)
