"""Player of a replay benchmark, a process of its own: serialized images onto topics, by the monotonic clock.

    python -m saccade_ros.nodes.player PID      PID is the parent's, with which it ends

It takes orders as lines of JSON on its input, and answers each with a line on its output: the first order names the
recording, every other one is the schedule of a trial, and the answer to that is every image with the time that it was
due and the time that it was sent. It decodes no picture and imports no model, so that nothing of its own makes it late.
"""

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from saccade_ros.nodes.child import end_with_parent
from saccade_ros.nodes.player_client import PLAYER
from saccade_ros.nodes.stopping import report_crashes
from saccade_ros.recordings import open_source
from saccade_ros.recordings.serialized import restamped
from saccade_ros.recordings.source import BEST_EFFORT, COMPRESSED
from saccade_ros.replay.modes import AS_RECORDED
from saccade_ros.replay.schedule import Schedule, Slot
from saccade_ros.replay.tracks import Track, load_tracks

QUEUE_DEPTH = 100
LEAD_S = 0.2  # from an order to the first image
FIND_S = 10.0  # for a subscriber to be found
URGENCY = -10  # see nice(2)
GIVE_UP_S = 2.0  # behind its schedule the player has lost it


class Player:
    """Publishers of a recording's topics, and the trials that are played on them.

    Args:
        order: `path`; `topics`, pairs of the recorded name and the one to play on; `reliability`, recorded, reliable or
            best_effort; `memory_mb` and `picture_hz`, see PlayOptions.

    Raises:
        SourceError: the recording cannot be read.
    """

    def __init__(self, node: Node, order: Mapping[str, Any], opened: ExitStack) -> None:
        sources = []
        for recorded, played in order["topics"]:
            source = opened.enter_context(open_source(Path(order["path"]), recorded, order["picture_hz"]))
            source.topic = played
            sources.append(source)
        self.tracks = load_tracks(sources, order["memory_mb"] << 20)
        self._publishers = [_publisher(node, track, order["reliability"]) for track in self.tracks.tracks]
        self._passes = 0

    def describe(self) -> dict[str, Any]:
        """Answer the first order."""
        return {
            "recorded_hz": Schedule().offered_hz(self.tracks),
            "reliable": all(_is_reliable(publisher) for publisher in self._publishers),
        }

    def play(self, schedule: Schedule) -> dict[str, Any]:
        """Play a trial; answer with the images sent: place of the topic, stamp, due and sent in nanoseconds."""
        self._await_subscribers()
        images, complete = [], True
        with ExitStack() as opened:
            messages = [opened.enter_context(closing(track.cycle())) for track in self.tracks.tracks]
            started_ns = time.monotonic_ns() + round(LEAD_S * 1e9)
            for slot in schedule.slots(self.tracks, self._passes):
                due_ns = started_ns + round(slot.due_s * 1e9)
                sent_ns = self._send(slot, next(messages[slot.track]), due_ns)
                images.append((slot.track, slot.stamp_ns, due_ns, sent_ns))
                if not (complete := sent_ns - due_ns < GIVE_UP_S * 1e9):
                    break
        self._passes = slot.turn + 1
        return {
            "images": images,
            "complete": complete,
            "topics": [track.topic for track in self.tracks.tracks],
            "offered_hz": schedule.offered_hz(self.tracks),
            "stamp_shift_ns": self._passes * self.tracks.pass_stamp_ns,
        }

    def _await_subscribers(self) -> None:
        """Wait until somebody receives each topic, or raise ValueError."""
        deadline = time.monotonic() + FIND_S
        for publisher in self._publishers:
            while not publisher.get_subscription_count():
                if time.monotonic() > deadline:
                    kind = "reliable" if _is_reliable(publisher) else "best effort"
                    raise ValueError(
                        f"nobody receives {publisher.topic_name}, which is played {kind}: let --reliability and "
                        f"qos_overrides.{publisher.topic_name}.subscription.reliability of the node fit"
                    )
                time.sleep(0.01)

    def _send(self, slot: Slot, message: bytes, due_ns: int) -> int:
        """Send an image when it is due; return when it was."""
        if slot.turn:
            message = restamped(message, slot.stamp_ns)
        if (wait_ns := due_ns - time.monotonic_ns()) > 0:
            time.sleep(wait_ns / 1e9)
        sent_ns = time.monotonic_ns()
        self._publishers[slot.track].publish(message)
        return sent_ns


def _publisher(node: Node, track: Track, reliability: str) -> Publisher:
    kind = CompressedImage if track.msgtype == COMPRESSED else Image
    wanted = track.reliability if reliability == AS_RECORDED else reliability
    policy = ReliabilityPolicy.BEST_EFFORT if wanted == BEST_EFFORT else ReliabilityPolicy.RELIABLE
    return node.create_publisher(kind, track.topic, QoSProfile(depth=QUEUE_DEPTH, reliability=policy))


def _is_reliable(publisher: Publisher) -> bool:
    return bool(publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE)


def hurry() -> None:
    """Come before other processes, where that is allowed, so that the encoder's load makes no image late."""
    with suppress(OSError):
        os.nice(URGENCY)


def main() -> int:
    """Take orders until the input ends. Exit status 1 if the recording cannot be read, which the answer says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it goes to the parent, too, which ends this process
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        with ExitStack() as opened:
            _serve(Node(PLAYER), map(json.loads, sys.stdin), opened)
    except (ValueError, OSError) as refused:
        _answer({"error": str(refused)})
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


def _serve(node: Node, orders: Iterator[Mapping[str, Any]], opened: ExitStack) -> None:
    player = Player(node, next(orders), opened)
    _answer(player.describe())
    hurry()
    gc.freeze()  # a collection of all that stays would make images late
    for order in orders:
        _answer(player.play(Schedule(**order)))


def _answer(answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    end_with_parent()
    report_crashes()
    sys.exit(main())
