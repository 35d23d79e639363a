"""Quantize and export an encoder, once; ends with the export.

ros2 launch saccade_ros export.launch.py checkpoint:=/models/vitl calibration:=/bags/drive out:=/models/vitl-w8
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

ARGUMENTS = (
    ("checkpoint", None, "Checkpoint folder, hub id, or a size with RANDOM weights such as tiny."),
    ("calibration", None, "Bag or video to calibrate and measure on."),
    ("out", None, "Output folder; appears whole or not at all."),
    ("adapter", "", "Causal adapter to merge. Empty: none."),
    ("held_out", "", "Another bag or video to judge by. Empty: the calibration clip's second half."),
    ("formats", "onnx", "Separated by commas: onnx, tensorrt."),
    ("precisions", "fp32,int8", "Separated by commas: fp32, fp16, bf16, int8, int8-static, int4."),
    ("window", "8", "Tubelets in the cache."),
    ("recompute", "1", "Newest tubelets recomputed in each step."),
    ("force", "false", "true keeps what would be refused, with a warning in the manifest."),
    ("serve", "false", "true waits for goals of the action ~/export instead."),
)


def generate_launch_description() -> LaunchDescription:
    """Arguments first, so that --show-args lists them."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=launch_export)])


def launch_export(context: LaunchContext) -> list:
    """The node, with the arguments as parameters."""

    def given(name: str) -> str:
        return context.perform_substitution(LaunchConfiguration(name)).strip()

    def listed(name: str) -> list[str]:
        return [part.strip() for part in given(name).split(",") if part.strip()]

    parameters = {name: given(name) for name in ("calibration", "out", "adapter", "held_out")}
    parameters |= {name: listed(name) for name in ("formats", "precisions")}
    parameters |= {name: int(given(name)) for name in ("window", "recompute")}
    parameters |= {"model": given("checkpoint"), "force": given("force").lower() == "true"}
    parameters |= {"autostart": given("serve").lower() != "true"}
    node = Node(
        package="saccade_ros", executable="export_node", parameters=[parameters], output="screen", emulate_tty=True
    )
    return [node]
