"""Kernels in C++ for x86 processors. colcon and pip build them where the compiler can; without them torch's serve."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import saccade_ros


@cache
def library() -> Any:
    """The built kernels, from whichever of the package's folders has them; None if they were not built."""
    for folder in saccade_ros.__path__:
        for file in sorted(Path(folder, "encoder", "native").glob("libsaccade_native*.so")):
            return _declared(ctypes.CDLL(str(file)))
    return None


def _declared(loaded: Any) -> Any:
    integer, pointer = ctypes.c_int, ctypes.c_void_p
    for attend in (loaded.saccade_amx_attend_bf16, loaded.saccade_amx_attend_fp32):
        attend.argtypes = [integer] * 8 + [pointer] * 8
    for linear in (loaded.saccade_linear_bf16, loaded.saccade_linear_fp32):
        linear.argtypes = [integer] * 5 + [pointer] * 4
    loaded.saccade_linear_int8.argtypes = [integer] * 5 + [pointer] * 5
    for add_norm in (loaded.saccade_add_norm_bf16, loaded.saccade_add_norm_fp32):
        add_norm.argtypes = [integer] * 3 + [ctypes.c_float] + [pointer] * 5
        add_norm.restype = None
    return loaded
