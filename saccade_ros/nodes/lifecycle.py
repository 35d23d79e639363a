"""Lifecycle node that answers every request at once: while a transition runs, and when an illegal one is asked for."""

import functools
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future as Outcome
from typing import Any, Generic, TypeVar

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.task import Future

Value = TypeVar("Value")

CALLBACKS = {
    Transition.TRANSITION_CONFIGURE: "on_configure",
    Transition.TRANSITION_ACTIVATE: "on_activate",
    Transition.TRANSITION_DEACTIVATE: "on_deactivate",
    Transition.TRANSITION_CLEANUP: "on_cleanup",
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: "on_shutdown",
    Transition.TRANSITION_INACTIVE_SHUTDOWN: "on_shutdown",
    Transition.TRANSITION_ACTIVE_SHUTDOWN: "on_shutdown",
}


def transition(on_event: Callable[[Any, LifecycleState], None]) -> Callable[[Any, LifecycleState], Any]:
    """Turn an exception of a transition into a log entry and FAILURE, where rclpy goes to error processing."""

    @functools.wraps(on_event)
    def guarded(node: LifecycleNode, state: LifecycleState) -> TransitionCallbackReturn:
        """Run the transition; report SUCCESS or FAILURE."""
        try:
            on_event(node, state)
        except (ValueError, ArithmeticError, RuntimeError) as refused:  # ours, with the value and the remedy in it
            node.get_logger().error(f"{on_event.__name__}: {refused}")
            node.get_logger().debug(traceback.format_exc())
            return TransitionCallbackReturn.FAILURE
        except BaseException:  # a defect; the node must live to be told
            node.get_logger().error(f"{on_event.__name__} failed:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    return guarded


class Background(Generic[Value]):
    """Work on a daemon thread, which a coroutine of the executor awaits (`finished`), or anyone waits for (`result`).

    Args:
        wake: called once it has finished, so that the executor resumes the coroutine.
    """

    def __init__(self, work: Callable[[], Value], wake: Callable[[], object]) -> None:
        self.finished = Future()
        self._outcome: Outcome[Value] = Outcome()
        self._work, self._wake = work, wake
        threading.Thread(target=self._run, name="saccade-background", daemon=True).start()

    def result(self) -> Value:
        """Wait for the work, and return what it returned, or raise what it raised."""
        return self._outcome.result()

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._work())
        except BaseException as failed:  # passed on by result()
            self._outcome.set_exception(failed)
        self.finished.set_result(None)
        self._wake()


class AnsweringLifecycleNode(LifecycleNode):
    """A lifecycle node whose executor goes on while the slow part of a transition, `prepare`, is awaited."""

    def __init__(self, name: str, **node_options: Any) -> None:
        super().__init__(name, **node_options)
        service, group = self._service_change_state, ReentrantCallbackGroup()  # one that takes the next request, too
        service.callback, service.callback_group = self._on_change_state, group
        group.add_entity(service)

    async def prepare(self, transition_id: int) -> None:
        """Await what a transition has to wait for; its callback runs after that, and must be quick."""

    def run_aside(self, work: Callable[[], Value]) -> Background[Value]:
        """Run something slow on a thread of its own."""
        return Background(work, lambda: self.executor and self.executor.wake())

    @property
    def state(self) -> str:
        """Name of the present state, such as active or, during a transition, activating."""
        label: str = self._state_machine.current_state[1]
        return label

    async def change_state(self, transition_id: int) -> bool:
        """Make a transition, one of CALLBACKS; True if it succeeded, False if it failed or is illegal now."""
        machine = self._state_machine
        possible = {id_: label for id_, label, *_ in machine.available_transitions if id_ in CALLBACKS}
        if transition_id not in possible:
            choice = ", ".join(f"{label} ({id_})" for id_, label in sorted(possible.items())) or "nothing"
            self.get_logger().warning(f"transition {transition_id} is refused: {self.state}, the node can do {choice}")
            return False
        state_id, label = machine.current_state
        machine.trigger_transition_by_id(transition_id, True)
        await self.prepare(transition_id)
        outcome = getattr(self, CALLBACKS[transition_id])(LifecycleState(label=label, state_id=state_id))
        machine.trigger_transition_by_label(outcome.to_label(), True)
        return bool(outcome == TransitionCallbackReturn.SUCCESS)

    async def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        transition_id, label = request.transition.id, request.transition.label
        if label:  # it wins, as in rclcpp
            labels = {known: id_ for id_, known, *_ in self._state_machine.available_transitions}
            transition_id = labels.get(label, label)
        response.success = await self.change_state(transition_id)
        return response
