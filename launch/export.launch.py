"""Quantize and export an encoder, once; ends with the export.

ros2 launch saccade_ros export.launch.py model:=/models/vitl calibration:=/bags/drive out:=/models/vitl-w8
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from saccade_ros.nodes.launch_arguments import Argument, export_arguments, export_parameters, is_true

SERVE = Argument("serve", "false", "true waits for goals of the action ~/export instead.")


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments first, so that --show-args lists them."""
    arguments = (*export_arguments(), SERVE)
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=launch_export)])


def launch_export(context: LaunchContext) -> list:
    """Make the node, with the arguments as parameters."""

    def given(name: str) -> str:
        return context.perform_substitution(LaunchConfiguration(name)).strip()

    parameters = export_parameters({argument.name: given(argument.name) for argument in export_arguments()})
    parameters |= {"autostart": not is_true(given("serve"))}
    node = Node(
        package="saccade_ros", executable="export_node", parameters=[parameters], output="screen", emulate_tty=True
    )
    return [node]
