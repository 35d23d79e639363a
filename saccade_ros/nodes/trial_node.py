"""Node of a trial: it has a player play, receives what comes of it, and scores it."""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from saccade_ros.measure.usage import Usage, UsageSampler
from saccade_ros.msg import Embedding
from saccade_ros.nodes.conversions import stamp_to_ns
from saccade_ros.nodes.encoder_client import SPIN_S, EncoderClient, ReplayError
from saccade_ros.nodes.frame_counter import FrameCounter
from saccade_ros.nodes.player_client import PLAYER, PlayerClient
from saccade_ros.nodes.ros_arguments import ros_refusals
from saccade_ros.replay.live import LiveView
from saccade_ros.replay.played import Played
from saccade_ros.replay.recording import EmbeddingRow, Fact, Recording
from saccade_ros.replay.schedule import Schedule
from saccade_ros.replay.scoring import Limits, Receipt, score, score_count
from saccade_ros.replay.trial import Trial
from saccade_ros.vision.ledger import Accounts

QUEUE_DEPTH = 100
QUIET_S = 2.0  # after which no further embedding is waited for
SILENCE_S = 3.0  # after which others' play has ended
FIND_S = 30.0

Topics = Sequence[tuple[str, str]]  # names and message types


class CountingNode(Node):
    """Node that has a player play to a subscriber that only counts."""

    def __init__(self, topics: Topics) -> None:
        with ros_refusals():
            super().__init__("saccade_replay")
        self._topics = topics
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def spin(self, seconds: float) -> None:
        """Handle the first thing that comes within so many seconds."""
        self._executor.spin_once(timeout_sec=seconds)

    def count(self, player: PlayerClient, schedule: Schedule) -> Trial:
        """Make a trial of the player alone.

        Raises:
            PlayerError: it has ended.
            ReplayError: it is not found.
        """
        counter, deadline = FrameCounter(self, self._topics, player.reliable), time.monotonic() + FIND_S
        while not counter.is_found:
            if time.monotonic() > deadline:
                raise ReplayError(f"waited {FIND_S:.0f} s for the player in vain; is ROS_DOMAIN_ID free of others?")
            self.spin(SPIN_S)
        played = self._play(player, schedule)
        while counter.count < played.count and time.monotonic() - counter.last_s < QUIET_S:
            self.spin(SPIN_S)
        counter.close()
        return score_count(played, counter.count, Usage())

    def _play(self, player: PlayerClient, schedule: Schedule, meanwhile: Callable[[], None] = lambda: None) -> Played:
        """Have the player play, and handle what comes; between two messages, call `meanwhile`."""
        player.play(schedule)
        while (answer := player.answer()) is None:
            self.spin(SPIN_S)
            meanwhile()
        return Played.read(answer)


class TrialNode(CountingNode):
    """Node that has a player play into the encoder, and receives the embeddings.

    Args:
        limits: with which the encoder keeps up.

    Attributes:
        encoder: under test.
        recording: of the last trial.
        accounts: of its frames, as the encoder counted them, and with those lost on the way.
        first_embedding_s: from the first image ever sent to the first embedding received.
    """

    def __init__(
        self,
        encoder: "subprocess.Popen[bytes]",
        topics: Topics,
        output_topic: str,
        limits: Limits,
        view: LiveView,
    ) -> None:
        super().__init__(topics)
        self.encoder = EncoderClient(self, self.spin, encoder)
        self._limits, self._view = limits, view
        self.recording, self.accounts = Recording(), Accounts()
        self._receipts: list[Receipt] = []
        self._before, self._published_before = Accounts(), 0  # counts at the start of the trial
        self._started_s, self._stamp_shift_ns = 0.0, 0
        self.first_embedding_s: float | None = None
        self.create_subscription(Embedding, output_topic, self._on_embedding, QUEUE_DEPTH)

    def trial(self, player: PlayerClient, schedule: Schedule) -> Trial:
        """Make a trial: activate the encoder, play, deactivate it, and account for every frame.

        Raises:
            ReplayError: the encoder died, or did not answer.
            PlayerError: the player has ended.
        """

        def play() -> Played:
            self.encoder.await_publisher(PLAYER)
            return self._play(player, schedule, self._follow)

        self._stamp_shift_ns = player.stamp_shift_ns
        return self._trial(play)

    def witness(self) -> Trial:
        """Make a trial of what others play, from the encoder's activation until they are silent."""
        counter = FrameCounter(self, self._topics, reliable=False)
        trial = self._trial(lambda: self._watch(counter))
        counter.close()
        return trial

    def _trial(self, play: Callable[[], Played]) -> Trial:
        encoder = self.encoder
        self.recording = Recording(environment=dict(self.recording.environment))
        self._receipts, self._before, self._published_before = [], encoder.accounts, encoder.published
        encoder.activate()
        self._started_s, sampler = time.monotonic(), UsageSampler(encoder.pid)
        played = play()
        usage = sampler.stop()
        encoder.await_arrival(played.count, self._before)
        encoder.await_last_step()
        encoder.deactivate()
        self._await_embeddings(encoder.published - self._published_before)
        self._settle()
        accounts = encoder.accounts.since(self._before)
        self.accounts = replace(accounts, lost=max(0, played.count - accounts.received))
        counts: dict[str, Fact] = {"frames_played": played.count, "frames_lost_in_transport": self.accounts.lost}
        self.recording.environment |= counts
        if self.first_embedding_s is None and self._receipts:
            self.first_embedding_s = (self._receipts[0].received_ns - int(played.sent_ns[0])) / 1e9
        return score(played, accounts, self._receipts, self._limits, usage)

    def _watch(self, counter: FrameCounter) -> Played:
        """Count what others play until nothing has come for a while."""
        while not counter.count or time.monotonic() - counter.last_s < SILENCE_S:
            self.spin(SPIN_S)
            self._follow()
        return counter.played()

    def _follow(self) -> None:
        """Show how far the trial is, and raise ReplayError if the encoder has died."""
        self.encoder.check_alive()
        self._settle()
        self._view.update(self.recording, time.monotonic() - self._started_s)

    def _await_embeddings(self, count: int) -> None:
        """Wait for the last embeddings; one that does not come is missing from the accounts, which say so."""
        last_s = time.monotonic()
        while len(self._receipts) < count and time.monotonic() - last_s < QUIET_S:
            received = len(self._receipts)
            self.spin(SPIN_S)
            last_s = time.monotonic() if len(self._receipts) > received else last_s

    def _settle(self) -> None:
        """Bring the recording's totals up to the newest counts."""
        totals, accounts = self.recording.totals, self.encoder.accounts.since(self._before)
        totals.frames_in, totals.frames_used = accounts.received, accounts.used
        totals.frames_dropped = dict(accounts.dropped)
        totals.published, totals.received = self.encoder.published - self._published_before, len(self._receipts)
        self.recording.gate = self.encoder.gate

    def _on_embedding(self, message: Embedding) -> None:
        received_ns = time.monotonic_ns()
        row = EmbeddingRow.read(message, stamp_ns=stamp_to_ns(message.header.stamp))
        self._receipts.append(Receipt(row, received_ns))
        shown = replace(row, stamp_ns=row.stamp_ns - self._stamp_shift_ns)  # as in the recording
        self.recording.add(shown, np.asarray(message.vector, np.float32))
