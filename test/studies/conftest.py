"""A clip, and the export of a small model, made once."""

import pytest
from clips import write_video

from saccade_ros.export.exporter import export
from saccade_ros.export.options import ExportOptions
from saccade_ros.measure.progress import silent


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> str:
    return str(write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=120))


@pytest.fixture(scope="session")
def exported(clip, tmp_path_factory) -> str:
    """Folder of the tiny model with window 2, in fp32 for ONNX Runtime."""
    out = tmp_path_factory.mktemp("out") / "export"
    options = ExportOptions("tiny", out, clip, precisions=("fp32",), window=2, tubelets=6, threads=1, force=True)
    return str(export(options, silent).folder)
