"""A video, and the bag that is written from it."""

import pytest
from recorded import write_video

from saccade_ros.recordings.bag_writer import write_bag


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", movflags="faststart")


@pytest.fixture(scope="session")
def bag(video, tmp_path_factory):
    path = tmp_path_factory.mktemp("bag") / "clip"
    write_bag(video, path)
    return path
