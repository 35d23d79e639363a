"""The encoder as a lifecycle node, configured and activated at start.

ros2 launch saccade_ros encoder.launch.py topics:=/front/image_raw,/rear/image_raw model:=/models/vitl
"""

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription
from saccade_ros.nodes.launch_arguments import (
    ENCODER_ARGUMENTS,
    LOG_LEVELS,
    Argument,
    encoder_arguments,
    encoder_parameters,
    read_bool,
    read_choice,
    read_file,
    unknown_arguments,
)

RESPAWN_DELAY_S = 2.0
OWN_ARGUMENTS = (
    Argument("namespace", "", "Namespace of the node. A relative output_topic and relative topics are below it."),
    Argument("name", "saccade_encoder", "Name of the node."),
    Argument("autostart", "true", "true configures and activates at start; false leaves that to a lifecycle manager."),
    Argument("respawn", "false", "true starts the node again when it has died; false ends the launch, with status 1."),
    Argument("use_sim_time", "false", "true takes the time from /clock. The encoder goes by image stamps either way."),
    Argument("log_level", "info", f"{', '.join(LOG_LEVELS[:-1])} or {LOG_LEVELS[-1]}."),
)


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments first, so that --show-args lists them; the node needs their values."""
    params_file = DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([FindPackageShare("saccade_ros"), "config", "encoder.yaml"]),
        description="Parameters of the node; config/encoder.yaml explains each. Arguments given here win over it.",
    )
    arguments = (*encoder_arguments(), *OWN_ARGUMENTS)
    others = [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in arguments]
    return LaunchDescription([params_file, *others, OpaqueFunction(function=launch_encoder)])


def launch_encoder(context: LaunchContext) -> list:
    """Make the node, and the event of its death.

    It starts itself: a request of launch_ros to a node that has just come back may go to the dead one, and is lost.
    """

    def given(name: str) -> str:
        return context.perform_substitution(LaunchConfiguration(name)).strip()

    overrides = encoder_parameters({name: given(name) for name in ENCODER_ARGUMENTS})
    overrides |= {"node.autostart": read_bool("autostart", given("autostart"))}
    overrides |= {"use_sim_time": read_bool("use_sim_time", given("use_sim_time"))}
    respawn = read_bool("respawn", given("respawn"))
    level = read_choice("log_level", given("log_level"), LOG_LEVELS)
    logger = ".".join([*given("namespace").strip("/").split("/"), given("name")]).lstrip(".")
    node = LifecycleNode(
        package="saccade_ros",
        executable="encoder_node",
        name=given("name"),
        namespace=given("namespace"),
        parameters=[read_file("params_file", given("params_file")), overrides],
        ros_arguments=["--log-level", f"{logger}:={level}"],
        output="screen",
        emulate_tty=True,
        respawn=respawn,
        respawn_delay=RESPAWN_DELAY_S,
    )
    known = ("params_file", *(argument.name for argument in (*encoder_arguments(), *OWN_ARGUMENTS)))
    warnings = [LogInfo(msg=text) for text in unknown_arguments(context.launch_configurations, known)]
    return [*warnings, *([] if respawn else [death_event(node)]), node]


def death_event(node: LifecycleNode) -> RegisterEventHandler:
    """End the launch when the node ends by itself: an exception is the only way to give it a status other than 0."""

    def end(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown:
            return []
        if event.returncode:
            raise RuntimeError(f"the encoder died with status {event.returncode}; its log above says why")
        return [Shutdown(reason="the encoder has ended")]

    return RegisterEventHandler(OnProcessExit(target_action=node, on_exit=end))
