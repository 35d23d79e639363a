"""Quantize and export an encoder, once; ends with the export, and with status 1 if that fails.

ros2 launch saccade_ros export.launch.py model:=/models/vitl calibration:=/bags/drive out:=/models/vitl-w8
"""

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from saccade_ros.nodes.launch_arguments import (
    Argument,
    export_arguments,
    export_parameters,
    read_bool,
    unknown_arguments,
)

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

    names = [argument.name for argument in export_arguments()]
    parameters = export_parameters({name: given(name) for name in names})
    parameters |= {"autostart": not read_bool("serve", given("serve"))}
    node = Node(
        package="saccade_ros", executable="export_node", parameters=[parameters], output="screen", emulate_tty=True
    )
    warnings = [LogInfo(msg=text) for text in unknown_arguments(context.launch_configurations, [*names, "serve"])]
    return [*warnings, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=end)), node]


def end(event: ProcessExited, context: LaunchContext) -> None:
    """Give the launch a status other than 0 if the export failed: an exception is the only way to."""
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f"the export ended with status {event.returncode}; its log above says why")
