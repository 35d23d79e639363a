"""Fault injection: the one seam through which parts of the program are made to fail, so that promises can be tested.

What can fail in the field passes a point here, by its name. Nothing happens there unless faults are armed: in a test by
`injected`, for a whole process by the environment variable SACCADE_FAULTS, which its entry point reads:

    SACCADE_FAULTS="step:error:7, step:hang:100:2.5, write:disk:1"

makes every 7th step raise, every 100th last 2.5 s longer, and every file fail as on a full disk.
"""

import errno
import math
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from saccade_ros.knobs import ConfigError

Value = TypeVar("Value")

VARIABLE = "SACCADE_FAULTS"
POINTS = {
    "load": "before a model is loaded",
    "decode": "before an image is decoded",
    "step": "before a tubelet is encoded, the one that warms up included",
    "output": "the vector that a step gave",
    "publish": "before an embedding is published",
    "write": "before a file or folder that was written gets its name",
}
KINDS = {
    "error": "RuntimeError",
    "memory": "MemoryError",
    "exit": "SystemExit, which is no Exception",
    "disk": "OSError, as of a full disk",
    "hang": "nothing for a time in seconds (an hour if none is given), and then as always",
    "nan": "NaN in place of the vector; at the point `output` only",
}
FOREVER_S = 3600.0


@dataclass(eq=False)
class Fault:
    """One way to fail at one point.

    Attributes:
        point, kind: keys of POINTS and KINDS.
        every: 1 fails each time, 7 every 7th time.
        seconds: that a hang lasts.
        met: how often the point was passed since.

    Raises:
        ConfigError: there is no such fault.
    """

    point: str
    kind: str
    every: int = 1
    seconds: float = FOREVER_S
    met: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        known = self.point in POINTS and self.kind in KINDS
        if not known or self.every < 1 or not self.seconds > 0 or (self.kind == "nan") > (self.point == "output"):
            raise ConfigError(
                f"{self.point}:{self.kind}:{self.every}:{self.seconds:g} is no fault: give POINT:KIND:EVERY:SECONDS "
                f"with a point of {', '.join(POINTS)} and a kind of {', '.join(KINDS)} (nan at output only)"
            )

    def is_due(self) -> bool:
        """Count that the point is passed; True if it fails this time."""
        with self._lock:
            self.met += 1
            return self.met % self.every == 0


_armed: list[Fault] = []


def passing(point: str, value: Value) -> Value:
    """Return the value, or what the armed faults make of it, or raise as they ask."""
    for fault in _armed:
        if fault.point == point and fault.is_due():
            value = _take_effect(fault, value)
    return value


def strike(point: str) -> None:
    """Raise, or wait, as the armed faults ask."""
    passing(point, None)


@contextmanager
def injected(*faults: Fault) -> Iterator[None]:
    """Arm faults in this process for a block."""
    _armed.extend(faults)
    try:
        yield
    finally:
        for fault in faults:
            _armed.remove(fault)


def arm_from_environment() -> list[Fault]:
    """Arm the faults that SACCADE_FAULTS names, for the life of this process; return them.

    Raises:
        ConfigError: it names something else.
    """
    faults = read_faults(os.environ.get(VARIABLE, ""))
    _armed.extend(faults)
    return faults


def read_faults(text: str) -> list[Fault]:
    """Read faults, separated by commas, each POINT:KIND, POINT:KIND:EVERY or POINT:KIND:EVERY:SECONDS.

    Raises:
        ConfigError: one of them is no fault.
    """
    return [_read_fault(item.strip()) for item in text.split(",") if item.strip()]


def _read_fault(text: str) -> Fault:
    parts = re.fullmatch(r"(\w+):(\w+)(?::(\d+)(?::(\d+(?:\.\d*)?))?)?", text)
    if parts is None:
        raise ConfigError(f"{VARIABLE} has {text!r}: give POINT:KIND, POINT:KIND:EVERY or POINT:KIND:EVERY:SECONDS")
    point, kind, every, seconds = parts.groups()
    return Fault(point, kind, int(every or 1), float(seconds or FOREVER_S))


def _take_effect(fault: Fault, value: Any) -> Any:
    if fault.kind == "hang":
        time.sleep(fault.seconds)
        return value
    if fault.kind == "nan":
        return value * math.nan
    if fault.kind == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise {"error": RuntimeError, "memory": MemoryError, "exit": SystemExit}[fault.kind](
        f"injected fault at {fault.point}"
    )
