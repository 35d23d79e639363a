"""Software and graphics processors that a figure depends on, found without importing or starting anything."""

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("saccade_ros", "numpy", "opencv-python-headless", "torch", "onnxruntime", "openvino", "tensorrt")


def describe_software() -> str:
    """List the versions of Python, of ROS where there is one, and of the packages that are installed, in a line."""
    ros = [f"ROS 2 {os.environ['ROS_DISTRO']}"] if os.environ.get("ROS_DISTRO") else []
    return ", ".join([f"Python {platform.python_version()}", *ros, *(v for name in PACKAGES for v in _versions(name))])


def _versions(package: str) -> list[str]:
    try:
        return [f"{package} {metadata.version(package)}"]
    except metadata.PackageNotFoundError:
        return []


def describe_gpus() -> str:
    """Name the graphics processors that NVIDIA's driver tells of, and the board of a Jetson; "none" without either."""
    reports = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for report in reports for line in report.read_text(encoding="utf-8").splitlines()]
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    board = Path("/proc/device-tree/model")
    if Path("/etc/nv_tegra_release").exists() and board.exists():
        models.append(board.read_text(encoding="utf-8").strip("\0\n"))
    return ", ".join(models) or "none"
