"""Client of an encoder node in a process of its own: its lifecycle, its info, and its account of every frame."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from saccade_ros.msg import EncoderInfo
from saccade_ros.nodes.child import child_process
from saccade_ros.replay.recording import Fact, describe_counts
from saccade_ros.vision.ledger import Accounts

ENCODER = "saccade_encoder"
LOAD_TIMEOUT_S = 600.0  # a large checkpoint may have to be downloaded
ANSWER_TIMEOUT_S = 30.0
STEP_TIMEOUT_S = 120.0  # of a large model on a small processor
ASK_AGAIN_S = 1.0
SPIN_S = 0.05
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
DROPPED, RESETS, DETAILS, GATE = "frames_dropped.", "resets.", "details.", "gate."


class ReplayError(RuntimeError):
    """Failure of the encoder node during a replay. The message says which, and where to look."""


class EncoderClient:
    """The encoder node, through services and topics of the node that asks.

    Args:
        spin: lets that node handle what comes within so many seconds.

    Attributes:
        info: the encoder's, once it is configured.
        accounts: of all frames since configure, all topics together, by the latest diagnostics.
        published: embeddings since configure.
        gate: its state; where there are several topics, that of the last.
    """

    def __init__(self, node: Node, spin: Callable[[float], None], process: "subprocess.Popen[bytes]") -> None:
        self._spin, self._process = spin, process
        self.info: EncoderInfo | None = None
        self.accounts, self.published = Accounts(), 0
        self.gate: dict[str, Fact] = {}
        self._diagnostics: dict[str, dict[str, str]] = {}  # the latest values, by topic
        self._is_news = False
        self._is_inactive = False  # by the latest of them
        node.create_subscription(EncoderInfo, f"/{ENCODER}/info", self._on_info, LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._lifecycle = node.create_client(ChangeState, f"/{ENCODER}/change_state")
        self._state = node.create_client(GetState, f"/{ENCODER}/get_state")

    def find(self) -> None:
        """Wait until both have discovered each other: an answer sent before the encoder knows this client is lost."""
        deadline, answer, asked_s = time.monotonic() + ANSWER_TIMEOUT_S, None, 0.0
        while answer is None or not answer.done():
            self.wait_for(self._state.service_is_ready, "the encoder to start", deadline - time.monotonic())
            if time.monotonic() - asked_s > ASK_AGAIN_S:
                answer, asked_s = self._state.call_async(GetState.Request()), time.monotonic()
            self._spin(SPIN_S)

    def configure(self) -> float:
        """Configure it; return how many seconds the transition took."""
        self.info, started_s = None, time.monotonic()
        self._transition(Transition.TRANSITION_CONFIGURE, LOAD_TIMEOUT_S)
        seconds = time.monotonic() - started_s
        self.wait_for(lambda: self.info is not None, "the encoder's info", ANSWER_TIMEOUT_S)
        return seconds

    def activate(self) -> None:
        """Activate it, and wait for its first diagnostics."""
        self._transition(Transition.TRANSITION_ACTIVATE, ANSWER_TIMEOUT_S)
        self.wait_for(lambda: self._diagnostics and not self._is_inactive, "the encoder's diagnostics")

    def deactivate(self) -> None:
        """Deactivate it, and wait for the final counts, which it publishes then."""
        self._transition(Transition.TRANSITION_DEACTIVATE, ANSWER_TIMEOUT_S)
        self.wait_for(lambda: self._is_inactive, "the final counts")

    def cleanup(self) -> None:
        """Let go of the model and of every subscription."""
        self._transition(Transition.TRANSITION_CLEANUP, ANSWER_TIMEOUT_S)
        self._diagnostics.clear()

    def await_publisher(self, name: str) -> None:
        """Wait until the encoder knows this node as a publisher of all its topics."""

        def is_known() -> bool:
            return all(name in values["publishers"] for values in self._diagnostics.values())

        self.wait_for(is_known, f"the encoder to discover {name}")

    def await_arrival(self, played: int, before: Accounts) -> None:
        """Wait until all images have arrived, or none has between two diagnostics: best effort may lose some."""
        arrived = -1
        while arrived < self.accounts.received - before.received < played:
            arrived = self.accounts.received - before.received
            self._is_news = False
            self.wait_for(lambda: self._is_news, "the encoder's diagnostics")

    def await_last_step(self) -> None:
        """Wait until all whole tubelets are done: deactivated, it would give up one that takes long."""

        def is_done() -> bool:
            pending = (int(values["frames_pending"]) for values in self._diagnostics.values())
            return all(frames <= 1 for frames in pending)  # half a tubelet stays

        self.wait_for(is_done, "the encoder's last step", STEP_TIMEOUT_S)

    @property
    def pid(self) -> int:
        """PID of the encoder's process."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raise ReplayError if its process has ended."""
        if self._process.poll() is not None:
            raise ReplayError(f"the encoder ended with status {self._process.returncode}; its log is above")

    def wait_for(self, done: Callable[[], Any], what: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Spin until something is true.

        Raises:
            ReplayError: the encoder has ended, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while not done():
            self.check_alive()
            if time.monotonic() > deadline:
                raise ReplayError(f"waited {timeout_s:.0f} s for {what} in vain; is ROS_DOMAIN_ID free of others?")
            self._spin(SPIN_S)

    def _read_accounts(self) -> Accounts:
        return Accounts(
            received=self._sum("frames_received"),
            used=self._sum("frames_used"),
            pending=self._sum("frames_pending"),
            dropped=self._sums(DROPPED),
            resets=self._sums(RESETS),
            lost=self._sum("frames_lost_in_transport"),
            details={name: text for values in self._diagnostics.values() for name, text in _below(values, DETAILS)},
        )

    def _sum(self, name: str) -> int:
        return sum(int(values.get(name, 0)) for values in self._diagnostics.values())

    def _sums(self, prefix: str) -> dict[str, int]:
        """Sums of the counts whose names begin like this, by the rest of the name."""
        names = {name for values in self._diagnostics.values() for name, _ in _below(values, prefix)}
        return {name: self._sum(prefix + name) for name in sorted(names)}

    def _transition(self, transition: int, timeout_s: float) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        answer = self._lifecycle.call_async(request)
        self.wait_for(answer.done, f"transition {transition}", timeout_s)
        if not answer.result().success:
            raise ReplayError(f"the encoder refused transition {transition}; its log above says why")

    def _on_info(self, message: EncoderInfo) -> None:
        self.info = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"/{ENCODER}: "
        ours = [status for status in message.status if status.name.startswith(prefix)]  # others report here, too
        if ours:
            self._diagnostics = {s.name.removeprefix(prefix): {v.key: v.value for v in s.values} for s in ours}
            self.accounts, self.published = self._read_accounts(), self._sum("tubelets_published")
            self.gate = {name: yaml.safe_load(v) for s in self._diagnostics.values() for name, v in _below(s, GATE)}
            self._is_inactive = all(status.message == "inactive" for status in ours)
            self._is_news = True


def _below(values: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), value


def encoder_facts(info: EncoderInfo | None) -> dict[str, Fact]:
    """Describe a configured encoder for a report's environment."""
    assert info is not None  # configure waits for it
    names = [name for name in EncoderInfo.get_fields_and_field_types() if name != "streams"]
    return {**{name: getattr(info, name) for name in names}, "token_counts": describe_counts(info.token_counts)}


@contextmanager
def encoder_process(
    params: Path | None, topics: Sequence[str], overrides: Mapping[str, Any] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the encoder node with these parameters on these topics, unconfigured; end it when the block ends.

    Args:
        overrides: parameters that win over the file's.
    """
    given = {**(overrides or {}), "node.topics": list(topics), "node.autostart": False}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "replay.yaml"
        # Under the node's own name, so that they win over those that a file gives it by name.
        file.write_text(yaml.safe_dump({f"/{ENCODER}": {"ros__parameters": given}}), encoding="utf-8")
        arguments = ["--ros-args", "-r", f"__node:={ENCODER}"]
        arguments += [argument for path in (params, file) if path for argument in ("--params-file", str(path))]
        with child_process("saccade_ros.nodes.encoder_child", arguments) as process:
            yield process
