"""Client of the player's process: it sends orders and takes answers without waiting for them."""

import json
import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saccade_ros.nodes.child import child_process
from saccade_ros.replay.modes import PlayOptions
from saccade_ros.replay.schedule import Schedule

PLAYER = "saccade_player"


class PlayerError(RuntimeError):
    """Failure of the player. The message says which."""


class PlayerClient:
    """The player of a recording, by the pipes of its process.

    Attributes:
        recorded_hz: images per second and topic of the recording, once it is loaded.
        reliable: True if all topics are played so.
        stamp_shift_ns: of the next trial's stamps from those of the recording.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self.recorded_hz, self.reliable, self.stamp_shift_ns = 0.0, True, 0
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, name="saccade-player", daemon=True).start()

    def load(self, path: Path, topics: Sequence[tuple[str, str]], play: PlayOptions, picture_hz: float) -> None:
        """Have it read a recording, and wait for that.

        Args:
            topics: recorded names, and those to play on.

        Raises:
            PlayerError: it cannot.
        """
        settings = {"picture_hz": picture_hz, "reliability": play.reliability, "memory_mb": play.memory_mb}
        self._order({"path": str(path.resolve()), "topics": topics, **settings})
        answer = self._read(self._answers.get())
        self.recorded_hz, self.reliable = answer["recorded_hz"], answer["reliable"]

    def play(self, schedule: Schedule) -> None:
        """Order a trial."""
        self._order(asdict(schedule))

    def answer(self) -> Mapping[str, Any] | None:
        """Return what was played in the trial ordered (see Played.read), once it is over.

        Raises:
            PlayerError: it has ended, or could not do it.
        """
        try:
            answer = self._read(self._answers.get_nowait())
        except queue.Empty:
            return None
        self.stamp_shift_ns = answer["stamp_shift_ns"]
        return answer

    def close(self) -> None:
        """Order nothing more, upon which it ends."""
        assert self._process.stdin is not None  # it was started with pipes
        with suppress(BrokenPipeError):  # it has ended
            self._process.stdin.close()

    def _read(self, line: bytes) -> Mapping[str, Any]:
        if not line:
            raise PlayerError(f"the player ended with status {self._process.wait()}; its log is above")
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise PlayerError(answer["error"])
        return answer

    def _order(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None  # it was started with pipes
        with suppress(BrokenPipeError):  # it has ended, which the answer tells
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None  # it was started with pipes
        with self._process.stdout as answers:
            for line in answers:
                self._answers.put(line)
        self._answers.put(b"")


@contextmanager
def player_process() -> Iterator[PlayerClient]:
    """Run the player; end it when the block ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with child_process("saccade_ros.nodes.player", (), **pipes) as process:
        client = PlayerClient(process)
        try:
            yield client
        finally:
            client.close()
