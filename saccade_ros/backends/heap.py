"""Heap of the process: what was freed is given back to the system, which the C library does by itself only in part."""

import ctypes
from contextlib import suppress


def trim_heap() -> None:
    """Give freed memory back; for use after weights went through it, of which loading leaves a copy or two freed.

    glibc alone has the call; elsewhere nothing happens.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
