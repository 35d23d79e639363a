"""The encoder as a lifecycle node, configured and activated at start.

ros2 launch saccade_ros encoder.launch.py topics:=/front/image_raw,/rear/image_raw model:=/models/vitl
"""

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

from launch import LaunchContext, LaunchDescription
from saccade_ros.nodes.launch_arguments import (
    ENCODER_ARGUMENTS,
    Argument,
    encoder_arguments,
    encoder_parameters,
    is_true,
)

OWN_ARGUMENTS = (
    Argument("namespace", "", "Namespace of the node. The output topic is absolute and stays /saccade/embedding."),
    Argument("name", "saccade_encoder", "Name of the node."),
    Argument("autostart", "true", "true configures and activates at start; false leaves that to a lifecycle manager."),
    Argument("use_sim_time", "false", "true takes the time from /clock. The encoder goes by image stamps either way."),
    Argument("log_level", "info", "debug, info, warn, error or fatal."),
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
    """Make the node, and the events of the two transitions that start it."""

    def given(name: str) -> str:
        return context.perform_substitution(LaunchConfiguration(name)).strip()

    overrides = encoder_parameters({name: given(name) for name in ENCODER_ARGUMENTS})
    overrides |= {"node.autostart": False, "use_sim_time": is_true(given("use_sim_time"))}
    logger = ".".join([*given("namespace").strip("/").split("/"), given("name")]).lstrip(".")
    node = LifecycleNode(
        package="saccade_ros",
        executable="encoder_node",
        name=given("name"),
        namespace=given("namespace"),
        parameters=[given("params_file"), overrides],
        ros_arguments=["--log-level", f"{logger}:={given('log_level')}"],
        output="screen",
        emulate_tty=True,
    )
    return [*start_events(node), node]


def start_events(node: LifecycleNode) -> list:
    """Configure when the process runs, activate when that succeeded.

    Written as events: LifecycleNode(autostart=True) came to Jazzy only with launch_ros 0.26.7 (April 2025).
    """
    wanted = IfCondition(LaunchConfiguration("autostart"))

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    configure = OnProcessStart(target_action=node, on_start=[change(Transition.TRANSITION_CONFIGURE)])
    activate = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[change(Transition.TRANSITION_ACTIVATE)],
        handle_once=True,  # at start; who configures it again later will want to activate it themselves
    )
    failed = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="unconfigured",
        entities=[
            LogInfo(msg="The encoder could not be configured; its log says why. It is alive: mend and configure it.")
        ],
    )
    return [RegisterEventHandler(handler, condition=wanted) for handler in (configure, activate, failed)]
