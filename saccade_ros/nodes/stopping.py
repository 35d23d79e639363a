"""End of a node's process by SIGINT, SIGTERM or SIGHUP: in time and with exit status 0, whatever it is doing."""

import os
import signal
import sys
import threading
import time
from typing import NoReturn

from rclpy.task import Future

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 1.5  # for an orderly end; then the process is ended


class StopSignals:
    """Signals that ask this process to end; `received` is done with the first one, and later ones change nothing.

    A thread of its own waits for them, at the pipe that Python's handler in C writes to: a handler in Python would have
    to wait for a call that the main thread is in. Signals that the process was started with as ignored stay so, as
    after `nohup`. To be made on the main thread, once, after `rclpy.init` without handlers.
    """

    def __init__(self) -> None:
        self.received = Future()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, args=(reader,), name="saccade-signals", daemon=True).start()

    def _wait(self, reader: int) -> None:
        os.read(reader, 1)
        self.received.set_result(None)
        time.sleep(GRACE_S)
        end_process()


def end_process() -> NoReturn:
    """End this process at once with exit status 0.

    Python would wait a second for torch's destructors, and crash on a thread that still loads or encodes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
