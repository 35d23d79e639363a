"""One small export, made once: random weights wide enough that attention matters, in all ONNX precisions."""

import pytest
from clips import write_video

from saccade_ros.export.exporter import export
from saccade_ros.export.options import ExportOptions
from saccade_ros.measure.progress import silent

QUIET = ("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=240)


@pytest.fixture(scope="session")
def options(clip, tmp_path_factory):
    def of(name="export", **changes):
        given = {"model": "tiny", "window": 3, "tubelets": 14, "threads": 1, "calibration": str(clip), "force": True}
        return ExportOptions(**{**given, "out": tmp_path_factory.mktemp("out") / name, **changes})

    return of


@pytest.fixture(scope="session")
def manifest(options):
    return export(options(precisions=("fp32", "fp16", "int8", "int8-static", "int4")), silent)
