"""A recording of any kind is opened by its path, and read as often as one likes."""

import pytest

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import SourceError


def test_each_iteration_starts_at_the_beginning(video, bag):
    for path in (video, bag):
        with open_source(path) as source:
            assert [i.stamp_ns for i in source] == [i.stamp_ns for i in source]


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        open_source(tmp_path / "nowhere.mp4")
