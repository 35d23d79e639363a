"""A recording played into the encoder node, from when it is active on; ends with the recording.

ros2 launch saccade_ros replay.launch.py bag:=/bags/drive player_arguments:='--out report'
ros2 launch saccade_ros replay.launch.py bag:=/bags/drive player:=ros2bag topics:=/camera/image_raw

The player `saccade` is replay_node, which runs an encoder of its own with params_file, measures and reports. `ros2bag`
is `ros2 bag play`, which measures nothing; the encoder beside it takes the arguments of encoder.launch.py.
"""

import shlex

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EqualsSubstitution, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription
from saccade_ros.nodes.launch_arguments import Argument, read_choice, read_file, read_path

LAST_IMAGES_S = 2.0  # from the player's end on, in which the encoder still works
PLAYERS = ("saccade", "ros2bag")
ARGUMENTS = (
    Argument("bag", None, "Recording to play: a bag; for the player saccade also a video."),
    Argument("player", PLAYERS[0], f"{PLAYERS[0]} measures and reports; {PLAYERS[1]} is `ros2 bag play`."),
    Argument("player_arguments", "", "Further arguments of the player, as in a shell, such as '--rate 2.0'."),
)


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, check them, then start the encoder; replay_node starts its own."""
    share = FindPackageShare("saccade_ros")
    defaults = PathJoinSubstitution([share, "config", "encoder.yaml"])
    encoder = PathJoinSubstitution([share, "launch", "encoder.launch.py"])
    with_ros2bag = IfCondition(EqualsSubstitution(LaunchConfiguration("player"), "ros2bag"))
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            DeclareLaunchArgument("params_file", default_value=defaults, description="Parameters of the encoder."),
            OpaqueFunction(function=launch_player),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(encoder), condition=with_ros2bag),
        ]
    )


def launch_player(context: LaunchContext) -> list:
    """Make the player: replay_node at once, `ros2 bag play` when the encoder is active."""

    def given(name: str) -> str:
        return context.perform_substitution(LaunchConfiguration(name)).strip()

    bag, further = read_path("bag", given("bag")), shlex.split(given("player_arguments"))
    params_file = read_file("params_file", given("params_file"))
    if read_choice("player", given("player"), PLAYERS) == "saccade":
        arguments = [bag, "--params", params_file, *further]
        player = Node(
            package="saccade_ros", executable="replay_node", arguments=arguments, output="screen", emulate_tty=True
        )
        return [end_event(player, after_s=0.0), player]
    player = ExecuteProcess(cmd=["ros2", "bag", "play", bag, *further], output="screen")
    active = OnStateTransition(goal_state="active", entities=[LogInfo(msg=f"playing {bag}"), player], handle_once=True)
    refused = OnStateTransition(
        start_state="configuring", goal_state="unconfigured", entities=[OpaqueFunction(function=refuse)]
    )
    return [end_event(player, LAST_IMAGES_S), RegisterEventHandler(active), RegisterEventHandler(refused)]


def refuse(context: LaunchContext) -> None:
    """End the launch of an encoder that cannot be configured."""
    raise RuntimeError("the encoder cannot be configured; its log above says why")


def end_event(player: ExecuteProcess, after_s: float) -> RegisterEventHandler:
    """End the launch some seconds after the player: with status 1, which only an exception gives, if that failed."""

    def end(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown:
            return []
        if event.returncode:
            raise RuntimeError(f"the player ended with status {event.returncode}; its log above says why")
        return [TimerAction(period=after_s, actions=[Shutdown(reason="the recording has ended")])]

    return RegisterEventHandler(OnProcessExit(target_action=player, on_exit=end))
