"""End of a node's process: by SIGINT, SIGTERM or SIGHUP in time and with exit status 0; by a crash with its place.

It imports little: signals are attended to before ROS and the encoder are imported.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 1.0  # for an orderly end, which takes 0.8 s at most where nothing is slow; then the process is ended


class StopSignals:
    """Signals that ask this process to end; `received` is set by the first one, and later ones change nothing.

    A thread of its own waits for them, at the pipe that Python's handler in C writes to: a handler in Python would have
    to wait for a call that the main thread is in. Signals that the process was started with as ignored stay so, as
    after `nohup`. To be made on the main thread, once; ROS is to be started without handlers of its own.

    Attributes:
        wake: called when `received` has been set, on that thread.
    """

    def __init__(self) -> None:
        self.received = threading.Event()
        self.wake: Callable[[], object] = lambda: None
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(reader,), name="saccade-signals", daemon=True).start()

    def _wait(self, reader: int) -> None:
        os.read(reader, 1)
        self.received.set()
        try:
            self.wake()
        finally:
            time.sleep(GRACE_S)
            os._exit(0)  # without end_process, whose flush may wait for a reader that reads no more


def report_crashes() -> None:
    """Have a crash of native code, such as a runtime's, print where each thread was in Python."""
    if sys.stderr is not None:  # as it is where a process is started with it closed
        faulthandler.enable()


def end_process(status: int = 0) -> NoReturn:
    """End this process at once.

    Python would wait a second for torch's destructors, and crash on a thread that still loads or encodes.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # it is closed, full, or read by nobody
            stream.flush()
    os._exit(status)
