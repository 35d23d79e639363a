"""Records of measurements: JSON files that name the weights, the machine and the command behind their figures."""

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade_ros import __version__
from saccade_ros.measure.machine import describe_machine
from saccade_ros.storage import write_json


def record_head(weights: str, weights_sha256: str) -> dict[str, str]:
    """Make the head of a record: weights, command, date, package version and machine.

    Args:
        weights: where they came from, in words, as EncoderInfo has it.
        weights_sha256: their fingerprint.
    """
    return {
        "weights": weights,
        "weights_sha256": weights_sha256,
        "command": command_line(),
        "date": time.strftime("%Y-%m-%d"),
        "package_version": __version__,
        "machine": describe_machine(),
    }


def command_line() -> str:
    """Return the command as the user typed it, quoted for a shell: `saccade bench step --model vitl`."""
    program = Path(sys.argv[0])
    name = "saccade" if program.name == "cli.py" else program.name  # python -m saccade_ros.cli
    return shlex.join([name, *sys.argv[1:]])


def save_record(record: Mapping[str, Any], file: Path) -> Path:
    """Write a record as strict JSON, whole or not at all; return the file.

    Raises:
        StorageError: it holds NaN or infinity, which JSON has not.
    """
    write_json(file, record)
    return file
