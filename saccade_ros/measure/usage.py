"""Use that a process makes of the machine over a stretch of time: processor, memory, GPU memory, and energy."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from saccade_ros.measure.energy import find_meters

_EVERY_S = 1.0


@dataclass(frozen=True)
class Usage:
    """Use of the machine.

    Attributes:
        cpu_cores: processor time over elapsed time.
        rss_mb, gpu_mb: (seconds, megabytes) of resident and of GPU memory, once a second; no GPU memory, no samples.
        joules: energy of the whole machine, by meter; empty where none can be read.
    """

    cpu_cores: float = 0.0
    rss_mb: tuple[tuple[float, float], ...] = ()
    gpu_mb: tuple[tuple[float, float], ...] = ()
    joules: Mapping[str, float] = field(default_factory=dict)


class UsageSampler:
    """Thread that samples a process once a second from the start until `stop`.

    Args:
        pid: of a process that outlives the sampler, or the samples end with it.
    """

    def __init__(self, pid: int) -> None:
        self._process, self._pid = Path(f"/proc/{pid}"), pid
        self._rss_mb: list[tuple[float, float]] = []
        self._gpu_mb: list[tuple[float, float]] = []
        self._started_s, self._cpu_s = time.monotonic(), self._read_cpu_s()
        self._meters, self._ended = find_meters(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="saccade-usage", daemon=True)
        self._thread.start()

    def stop(self) -> Usage:
        """End the sampling; return what was used since the start."""
        cores = (self._read_cpu_s() - self._cpu_s) / (time.monotonic() - self._started_s)
        self._ended.set()
        self._thread.join()
        joules = {meter.name: meter.joules for meter in self._meters}
        return Usage(cores, tuple(self._rss_mb), tuple(self._gpu_mb), joules)

    def _run(self) -> None:
        while True:
            with suppress(OSError, ValueError):  # the process has ended, waited for or not
                now_s = time.monotonic() - self._started_s
                self._rss_mb.append((now_s, resident_mb((self._process / "status").read_text(encoding="utf-8"))))
                if (gpu_mb := gpu_megabytes(self._pid)) is not None:
                    self._gpu_mb.append((now_s, gpu_mb))
            for meter in self._meters:
                meter.read()
            if self._ended.wait(_EVERY_S):
                return

    def _read_cpu_s(self) -> float:
        """Processor time of the process so far, all its threads; 0 if it has ended."""
        with suppress(OSError):
            # proc(5): the name, in parentheses, may hold spaces; utime and stime are fields 14 and 15.
            fields = (self._process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0


def resident_mb(status: str) -> float:
    """Read the resident memory in MB off the text of /proc/PID/status.

    Raises:
        ValueError: it has none, as a process that has ended and is not waited for.
    """
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def gpu_megabytes(pid: int) -> float | None:
    """Ask nvidia-smi for the GPU memory of a process; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        return read_gpu_megabytes(listed, pid)
    return None


def read_gpu_megabytes(listed: str, pid: int) -> float | None:
    """Sum the memory of a process over the lines "PID, MB" of nvidia-smi; None if it has none that is told."""
    rows = [[part.strip() for part in line.split(",")] for line in listed.splitlines()]
    used = [float(row[1]) for row in rows if len(row) == 2 and row[0] == str(pid) and row[1].replace(".", "").isdigit()]
    return sum(used) if used else None
