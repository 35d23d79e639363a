"""Launch arguments are the settings: no name, default or type of their own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from saccade_ros.config import Config
from saccade_ros.export.options import ExportOptions
from saccade_ros.knobs import build, settings_of
from saccade_ros.nodes.launch_arguments import (
    ENCODER_ARGUMENTS,
    encoder_arguments,
    encoder_parameters,
    export_arguments,
    export_parameters,
)

LAUNCH = Path(__file__).parents[2] / "launch"


def test_encoder_arguments_name_settings_and_are_empty_by_default():
    assert set(ENCODER_ARGUMENTS.values()) <= {setting.name for setting in settings_of(Config)}
    assert {argument.default for argument in encoder_arguments()} == {""}
    (backend,) = (argument for argument in encoder_arguments() if argument.name == "backend")
    assert "One of auto, torch, onnxruntime, tensorrt. Empty: as in params_file." in backend.description


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
