"""A video becomes a bag that holds the same, whole or not at all."""

from dataclasses import replace

import numpy as np
import pytest
from recorded import FRAMES, read

from saccade_ros.recordings.bag_writer import write_bag
from saccade_ros.recordings.source import SourceError
from saccade_ros.vision.images import decode_image


def test_a_bag_made_from_a_video_has_its_stamps_and_pictures(video, bag):
    originals, copies = read(video), read(bag)
    assert [replace(c, image=None, cdr=None, msgtype="") for c in copies] == [
        replace(o, image=None, cdr=None, msgtype="") for o in originals
    ]
    for original, copy in zip(originals, copies, strict=True):
        before, after = decode_image(original.image, 10**6), decode_image(copy.image, 10**6)
        assert np.abs(before.astype(int) - after).mean() < 3  # what JPEG costs


def test_progress_is_told_frame_by_frame(video, tmp_path):
    told: list[float] = []
    assert write_bag(video, tmp_path / "bag", progress=lambda what, fraction: told.append(fraction)) == FRAMES
    assert told == [(i + 1) / FRAMES for i in range(FRAMES)]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_nothing(video, tmp_path, interruption):
    def interrupt(what, fraction):
        if fraction > 0.2:
            raise interruption

    with pytest.raises(interruption):
        write_bag(video, tmp_path / "bag", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_cut_video_becomes_no_bag(video, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:-2000])
    with pytest.raises(SourceError):
        write_bag(tmp_path / "cut.mp4", tmp_path / "bag")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.mp4"]


def test_an_existing_bag_is_not_overwritten(video, bag):
    before = (bag / "clip.mcap").read_bytes()
    with pytest.raises(SourceError, match="exists"):
        write_bag(video, bag)
    assert (bag / "clip.mcap").read_bytes() == before


def test_a_bag_is_not_made_into_a_bag(bag, tmp_path):
    with pytest.raises(SourceError, match="is no video"):
        write_bag(bag, tmp_path / "bag")


@pytest.mark.parametrize("name", ["run#1", "what?", "50%", "a b", "2024-01-01T10:00:00"])
def test_no_character_of_a_path_has_a_meaning(video, tmp_path, name):
    (tmp_path / name).mkdir()
    assert write_bag(video, tmp_path / name / name) == FRAMES == len(read(tmp_path / name / name))
