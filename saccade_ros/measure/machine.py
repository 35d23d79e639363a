"""Description of the machine that a figure was measured on."""

import os
import platform
from pathlib import Path

# Instruction sets that decide how fast an encoder is, by name: the word for each in /proc/cpuinfo.
INSTRUCTION_SETS = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "VNNI int8": "avx512_vnni",
    "AVX VNNI int8": "avx_vnni",
    "bf16": "avx512_bf16",
    "AMX bf16": "amx_bf16",
    "AMX int8": "amx_int8",
    "Arm dot product int8": "asimddp",
    "Arm int8 matrices": "i8mm",
    "Arm bf16": "bf16",
}


def describe_machine() -> str:
    """Describe processor, cores, system and Python in a line."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{processor()}, {os.cpu_count()} cores, {system}"


def processor() -> str:
    """Model of the processor."""
    return _cpuinfo("model name") or platform.processor() or "unknown processor"


def instruction_sets() -> tuple[str, ...]:
    """Names, of INSTRUCTION_SETS, of those that this processor has."""
    there = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return tuple(name for name, word in INSTRUCTION_SETS.items() if word in there)


def _cpuinfo(key: str) -> str:
    """Value of the first line of /proc/cpuinfo with this key; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def available_bytes() -> int:
    """Tell the memory that can still be taken without swapping, in bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
