"""A recording as the encoder's input: the tubelets that the node would take."""

from pathlib import Path

import numpy as np
import pytest
from clips import write_video

from saccade_ros.config import Config, StreamConfig
from saccade_ros.recordings import open_source
from saccade_ros.recordings.clip import read_tubelets
from saccade_ros.recordings.source import SourceError
from saccade_ros.vision.images import decode_image
from saccade_ros.vision.preprocess import tubelet_pixels


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_tubelets_are_pairs_of_frames_as_they_come(clip):
    tubelets = read_tubelets(clip, Config(stream=StreamConfig(fps=0.0)), 64, at_most=3)
    with open_source(clip) as source:
        pictures = [decode_image(recorded.image, 10**7) for recorded in source][:6]
    expected = [tubelet_pixels(*pictures[n : n + 2], 64, "crop") for n in (0, 2, 4)]
    assert np.array_equal(tubelets, np.stack(expected))


def test_a_clip_without_two_frames_is_refused_with_the_rate(clip):
    with pytest.raises(SourceError, match=r"nothing came of .*all 40 images lie within one period of stream.fps"):
        read_tubelets(clip, Config(stream=StreamConfig(fps=0.1, max_gap_s=60.0)), 64)
