"""Terminal of a command: output that cannot make it fail, and signals that end it tidily."""

import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from types import FrameType
from typing import Any, cast

GRACE_S = 5.0  # for tidying up, in which a second signal, from a parent or an impatient person, is passed over


class EndedBySignal(KeyboardInterrupt):  # as its base, it names no fault of this program
    """A signal that asked the process to end. `status` is the exit status that says so, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the block, and then the process, by EndedBySignal, so that all is tidied up.

    Later ones are ignored then: Python's own end must not be cut short. A signal that was ignored before, as nohup
    ignores SIGHUP, stays so. Where signals were blocked before, they are let in for the block alone, and one that has
    come meanwhile ends it at once. For the main thread only.
    """
    last_s = -GRACE_S

    def end(number: int, frame: FrameType | None) -> None:
        """Raise, unless the block is ending already."""
        nonlocal last_s
        if time.monotonic() - last_s >= GRACE_S:
            last_s = time.monotonic()
            raise EndedBySignal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, end) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler if last_s < 0 else signal.SIG_IGN)


@contextmanager
def forgiving_output() -> Iterator[None]:
    """Let nothing that the block prints fail: what was done stays done, whoever reads of it.

    A character that the terminal has not becomes a question mark; what a reader that is gone, or a full disk, does not
    take is lost. `print_whole` is for data that must not be.
    """
    with ExitStack() as redirected:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
            if stream is not None:  # it is where the shell closed it: >&-
                redirected.enter_context(redirect(cast("Any", _Forgiving(stream))))
        yield
        print(end="", flush=True)


def print_whole(text: str) -> None:
    """Print a line of data.

    Raises:
        OSError: it did not arrive whole.
    """
    stream = sys.stdout.stream if isinstance(sys.stdout, _Forgiving) else sys.stdout
    print(text, file=stream, flush=True)


class _Forgiving:
    """A text stream that loses what cannot be written. All else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, or lose it."""
        with self._losing():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or lose it."""
        with self._losing():
            self.stream.flush()

    @contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # what is buffered would fail again when Python ends, with a status of its own
            with suppress(OSError, ValueError), open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), self.stream.fileno())
