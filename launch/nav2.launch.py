"""The encoder under nav2's lifecycle manager, which configures and activates it and notices its death by a bond.

ros2 launch saccade_ros nav2.launch.py topics:=/front/image_raw model:=/models/vitl

It takes the arguments of encoder.launch.py, and needs nav2_lifecycle_manager and, for the bond, bondpy.
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

BOND_TIMEOUT_S = 4.0


def generate_launch_description() -> LaunchDescription:
    """Include the encoder, waiting, and start the manager beside it, in its namespace."""
    encoder = PathJoinSubstitution([FindPackageShare("saccade_ros"), "launch", "encoder.launch.py"])
    name = ParameterValue(["[", LaunchConfiguration("name"), "]"], value_type=list[str])
    manager = Node(
        package="nav2_lifecycle_manager",
        executable="lifecycle_manager",
        name="lifecycle_manager_saccade",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{"autostart": True, "node_names": name, "bond_timeout": BOND_TIMEOUT_S}],
        output="screen",
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of node and manager."),
            DeclareLaunchArgument("name", default_value="saccade_encoder", description="Name of the node."),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(encoder), launch_arguments={"autostart": "false"}.items()
            ),
            manager,
        ]
    )
