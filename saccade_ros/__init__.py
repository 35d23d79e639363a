"""Streaming V-JEPA 2 video embeddings whose compute follows the scene, not the clock.

Importing the package costs nothing: torch, OpenCV and ROS are imported by the modules that use them.
"""

import os
from pkgutil import extend_path

# The generated messages (saccade_ros.msg) live in the install tree, the Python in the source or the install
# tree. Joining every `saccade_ros` folder on sys.path lets both resolve whichever comes first.
__path__ = extend_path(__path__, __name__)

# ONNX Runtime 1.29 and later send usage data, and write an id of the device to the disk, from their import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("NNCF_CI", "1")  # the only value by which NNCF reports nothing

__version__ = "0.1.0"
