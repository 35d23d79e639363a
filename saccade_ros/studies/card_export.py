"""Artifact of an export for the bench card: made for its speed alone, of a clip of noise."""

from pathlib import Path

import av
import numpy as np

from saccade_ros.export.options import ExportOptions
from saccade_ros.measure.progress import silent
from saccade_ros.runtimes import RUNTIMES

TUBELETS = 4  # the least that an export takes
STEPS = 45  # that it computes of them and for its timing, torch's and its own
SECONDS_PER_WEIGHT = 0.2e-6  # to load, write and quantize it, on a slow machine


def export_seconds(weights: int, step_s: float) -> float:
    """Estimate the seconds that one artifact takes.

    Args:
        weights: number of them.
        step_s: seconds of a step, as far as one is known.
    """
    return STEPS * step_s + SECONDS_PER_WEIGHT * weights


def export_artifact(model: str, runtime: str, precision: str, window: int, folder: Path) -> None:
    """Export a model in one precision for one runtime, whatever its fidelity.

    Raises:
        ModuleNotFoundError: an export needs packages that are not here.
        ExportError: it cannot be made.
    """
    from saccade_ros.export.exporter import export  # only here: it needs torch

    clip = folder.parent / "noise.mp4"
    if not clip.exists():
        _write_noise(clip, frames=2 * TUBELETS)
    made, taken = (RUNTIMES[runtime].export_format,), (precision,)
    options = ExportOptions(
        model, folder, str(clip), formats=made, precisions=taken, window=window, tubelets=TUBELETS, force=True
    )
    export(options, silent)


def _write_noise(file: Path, frames: int) -> None:
    """Write a video of noise, 4 frames a second, 128 pixels wide and high."""
    pictures = np.random.default_rng(0).integers(0, 256, (frames, 128, 128, 3), np.uint8)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
