"""A recording of any kind is opened by its path, and read as often as one likes."""

import gzip
import io
import tarfile
import zipfile

import pytest
from mcap_files import images, write_mcap
from recorded import read

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import SourceError
from saccade_ros.recordings.zstd import zstd


def test_each_iteration_starts_at_the_beginning(video, bag):
    for path in (video, bag):
        with open_source(path) as source:
            assert [i.stamp_ns for i in source] == [i.stamp_ns for i in source]


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        open_source(tmp_path / "nowhere.mp4")


def _tar(data):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("clip.mcap")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def _zip(data):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("clip.mcap", data)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("pack", "remedy"), [(zstd.compress, "zstd -d"), (gzip.compress, "gunzip"), (_tar, "tar -xf"), (_zip, "unzip")]
)
@pytest.mark.parametrize("name", ["clip.mcap.packed", "clip.mcap", "clip.mp4"])
def test_what_is_packed_is_refused_with_what_unpacks_it(tmp_path, pack, remedy, name):
    path = tmp_path / name
    path.write_bytes(pack(write_mcap(tmp_path / "whole.mcap", [images()]).read_bytes()))
    with pytest.raises(SourceError, match=rf"{name} is compressed: unpack it with `{remedy} {name}`"):
        open_source(path)


def test_a_pointer_of_git_lfs_is_refused_as_that(tmp_path):
    (tmp_path / "clip.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(SourceError, match="git lfs pull"):
        open_source(tmp_path / "clip.mp4")


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mcap", "clip.bag", "clip"])
def test_an_empty_file_is_an_error(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match=rf"{name} is empty"):
        open_source(tmp_path / name)


def test_a_device_is_no_recording():
    with pytest.raises(SourceError, match="/dev/zero is no file"):
        open_source("/dev/zero")


@pytest.mark.parametrize("name", ["clip.bag", "CLIP.Mcap", "clip.db3"])
def test_what_is_named_like_a_bag_and_begins_like_none_is_damaged(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(1000))
    with pytest.raises(SourceError, match=rf"{name} cannot be read as a bag: it begins like no bag"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["clip", "CLIP.MP4", "clip.txt", "clip.mcap.mp4", "a#b?c%d.mp4", "-clip"])
def test_a_video_plays_whatever_its_name(video, tmp_path, name):
    (tmp_path / name).write_bytes(video.read_bytes())
    assert len(read(tmp_path / name)) == 24
