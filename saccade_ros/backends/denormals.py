"""Denormal numbers taken for zero while a graph runs, and not in the calling thread's own arithmetic after it.

ONNX Runtime's own setting reaches the threads of its pool, and besides only the thread that opens the first session of
the process: there it stays, and the threads that run the others never get it. OpenVINO's stays on in the thread that
compiles a graph.
"""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Of C's fenv_t on Linux: the word that holds the processor's control register, and its bits that flush denormals.
_FLUSH = {"x86_64": (7, 1 << 15 | 1 << 6), "aarch64": (0, 1 << 24)}
_FENV_WORDS = 16  # more than any fenv_t has


def _find_libm() -> Any:
    """The functions of C's fenv.h, where the layout of what they take is known, else None."""
    if sys.platform != "linux" or platform.machine() not in _FLUSH:
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "fegetenv") and hasattr(library, "fesetenv") else None


_LIBM = _find_libm()


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Take denormals for zero in the calling thread during the block; whatever the block does, it has its own back."""
    if _LIBM is None:
        yield
        return
    environment = (ctypes.c_uint32 * _FENV_WORDS)()
    word, bits = _FLUSH[platform.machine()]
    _LIBM.fegetenv(environment)
    own = environment[word]
    environment[word] = own | bits
    _LIBM.fesetenv(environment)
    try:
        yield
    finally:
        environment[word] = own
        _LIBM.fesetenv(environment)
