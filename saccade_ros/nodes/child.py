"""Process of a node that does not outlive the one that started it, however that ends."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_END_S = 30.0  # that a child may take to end after SIGTERM


def end_with_parent() -> None:
    """Take the parent's PID off the arguments; ask Linux for SIGKILL when it has died, and end at once if it has."""
    pid = int(sys.argv.pop(1))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != pid:
        sys.exit(1)


@contextlib.contextmanager
def child_process(module: str, arguments: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a module, which begins with end_with_parent, as a child; end it when the block ends."""
    process = subprocess.Popen([sys.executable, "-m", module, str(os.getpid()), *arguments], **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
