#!/usr/bin/env python3
"""The export node: the action ~/export (saccade_ros/ExportModel) does what `saccade export` does, one at a time.

`autostart:=true` exports once by the parameters, shows a bar in a terminal, and ends with the export.
"""

if __name__ == "__main__":  # signals are attended to before the imports
    from saccade_ros.nodes.entry import export_node

    raise SystemExit(export_node())

import threading
import traceback
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rich.console import Console

from saccade_ros.action import ExportModel
from saccade_ros.backends.manifest import FILE
from saccade_ros.export.command import table
from saccade_ros.export.exporter import ExportCancelledError, export
from saccade_ros.export.options import ExportOptions
from saccade_ros.knobs import ConfigError, build
from saccade_ros.measure.progress import Progress, ProgressBar
from saccade_ros.nodes.parameters import declare_parameters, read_values
from saccade_ros.nodes.ros_arguments import ros_refusals
from saccade_ros.terminal import EndedBySignal, ended_by_signals, forgiving_output

LONGEST_SPIN_S = 0.2  # a signal is noticed after
AUTOSTART = ParameterDescriptor(description="True exports once by the node's parameters, and ends.")


class ExportNode(Node):
    """Serves ~/export. The export runs on a thread of its own, so that goals, cancels and parameters are answered."""

    def __init__(self, **node_options: Any) -> None:
        with ros_refusals():
            super().__init__("saccade_export", **node_options)
        declare_parameters(self, ExportOptions)
        self.declare_parameter("autostart", False, AUTOSTART)
        self._busy = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server = ActionServer(
            self,
            ExportModel,
            "~/export",
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
        )

    def options(self, goal: Any = None) -> ExportOptions:
        """Return the parameters, each replaced by the goal's field of that name unless that is empty, 0 or false.

        Raises:
            ConfigError: an option that cannot work.
        """
        values = read_values(self, ExportOptions)
        if goal is not None:
            given = {name: getattr(goal, name) for name in goal.get_fields_and_field_types()}
            values |= {name: value for name, value in given.items() if value}
        return build(ExportOptions, values)

    def close(self) -> None:
        """Stop an export in progress, and wait until its scratch folder is gone."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._server.destroy()

    def _on_goal(self, goal: Any) -> GoalResponse:
        try:
            self.options(goal)
        except ValueError as refused:
            self.get_logger().error(f"goal refused: {refused}")
            return GoalResponse.REJECT
        if self._busy.locked():
            self.get_logger().error("goal refused: an export is running; cancel it or wait for it")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        return CancelResponse.ACCEPT

    async def _execute(self, handle: ServerGoalHandle) -> Any:
        """Wait for the export's thread without blocking the executor."""
        executor = self.executor
        done: Future = Future(executor=executor)

        def work() -> None:
            """Export, then wake the executor with the result."""
            done.set_result(self._export(handle))
            executor.wake()  # it sleeps until something comes in, and a future's result alone does not count

        thread = threading.Thread(target=work, name="export")
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()
        await done
        succeeded, result = done.result()
        if succeeded:
            handle.succeed()
        elif handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return result

    # On the export's thread

    def _export(self, handle: ServerGoalHandle) -> tuple[bool, Any]:
        result = ExportModel.Result()
        with self._busy:
            try:
                options = self.options(handle.request)
                self.get_logger().info(starting_line(options))
                manifest = export(options, self._feedback(handle))
            except ExportCancelledError as cancelled:
                result.message = str(cancelled)
                self.get_logger().warning(f"export to {options.out}: {cancelled}")
            except Exception as failed:  # told to the client; the node must live
                result.message = str(failed) or type(failed).__name__
                self.get_logger().error(f"export failed: {result.message}")
                self.get_logger().debug(traceback.format_exc())
            else:
                result.success, result.manifest = True, str(manifest.folder / FILE)
                result.refused = list(manifest.refused)
                kept = ", ".join(f"{a.runtime} {a.precision}" for a in manifest.artifacts)
                result.message = f"{manifest.folder}: {kept}"
                self.get_logger().info(f"exported {result.message}")
        return result.success, result

    def _feedback(self, handle: ServerGoalHandle) -> Progress:
        def report(stage: str, progress: float) -> None:
            """Publish feedback, or stop the export."""
            if handle.is_cancel_requested or self._stopping.is_set():
                raise ExportCancelledError("cancelled; nothing was written")
            handle.publish_feedback(ExportModel.Feedback(stage=stage, progress=float(progress)))

        return report


def starting_line(options: ExportOptions) -> str:
    """Say what is exported, for the log."""
    wanted = ", ".join(f"{form} {precision}" for form, precision in options.pairs())
    return f"exporting {options.model} to {options.out}: {wanted}; calibrating on {options.calibration}"


def export_once(node: ExportNode) -> int:
    """Export by the node's parameters, with a bar."""
    try:
        options = node.options()
        node.get_logger().info(starting_line(options))
        with ended_by_signals(), ProgressBar() as progress:
            manifest = export(options, progress)
    except (ValueError, ArithmeticError, RuntimeError, OSError) as refused:
        node.get_logger().fatal(str(refused))
        return 1
    except EndedBySignal as ended:
        node.get_logger().warning(f"export ended by {ended}; nothing was written")
        return ended.status
    Console().print(table(manifest))
    return 0


def spin(node: ExportNode) -> int:
    """Serve goals until a signal ends it."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        with ended_by_signals():
            while True:
                executor.spin_once(timeout_sec=LONGEST_SPIN_S)
    except EndedBySignal as ended:
        node.get_logger().info(f"ended by {ended}")
    return 0


def main(args: list[str] | None = None) -> int:
    """Run the node. Signals are blocked (entry.py), but for the time in which it exports or serves."""
    with forgiving_output():
        try:
            return run(args)
        except ConfigError as refused:
            rclpy.logging.get_logger("saccade_export").fatal(str(refused))
            return 1
        finally:
            rclpy.try_shutdown()


def run(args: list[str] | None) -> int:
    """Make the node, and export or serve.

    Raises:
        ConfigError: a ROS argument or a parameter cannot be.
    """
    with ros_refusals():
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = ExportNode()
    try:
        return export_once(node) if node.get_parameter("autostart").value else spin(node)
    finally:
        node.close()
        node.destroy_node()
