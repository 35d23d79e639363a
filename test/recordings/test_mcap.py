"""A valid MCAP file gives its messages in the order of their times, whatever of the format it leaves out."""

import shutil

import pytest
from mcap_files import Channel, images, write_mcap
from recorded import read

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import SourceError

TIMES = list(range(100, 106))


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"chunk": 0},
        {"chunk": 1},
        {"chunk": 100},
        {"compression": "zstd"},
        {"compression": "lz4"},
        {"checksum": False},
        {"summary": ""},
        {"summary": "S"},
        {"summary": "sc"},
        {"summary": "s"},
        {"summary": "", "chunk": 0},
        {"profile": ""},
        {"profile": "custom"},
    ],
    ids=str,
)
def test_what_the_format_leaves_open_may_be_missing(tmp_path, form):
    """No message index, no chunk index in any of them."""
    other = Channel("/ok", "std_msgs/msg/Bool", "cdr", [(102, b"\0\1\0\0\1")])
    path = write_mcap(tmp_path / "clip.mcap", [images(times=TIMES), other], **form)
    assert [(image.time_ns, image.image.data[0]) for image in read(path)] == list(zip(TIMES, range(6), strict=True))
    with open_source(path) as source:
        assert (source.topic, source.count, source.duration_s) == ("/camera", 6, 5e-9)


@pytest.mark.parametrize("chunk", [0, 1, 2, 100])
def test_messages_come_in_the_order_of_their_times(tmp_path, chunk):
    path = write_mcap(tmp_path / "clip.mcap", [images(times=[103, 101, 105, 101, 100, 104])], chunk=chunk)
    assert [(image.time_ns, image.image.data[0]) for image in read(path)] == [
        (100, 4),
        (101, 1),
        (101, 3),
        (103, 0),
        (104, 5),
        (105, 2),
    ]


def test_two_channels_of_one_topic_are_one_stream_and_warned_of(tmp_path, caplog):
    path = write_mcap(tmp_path / "clip.mcap", [images(times=[100, 102]), images(times=[101, 103])])
    assert [image.time_ns for image in read(path)] == [100, 101, 102, 103]
    assert "2 publishers wrote /camera" in caplog.text


def test_two_publishers_of_one_channel_are_warned_of(tmp_path, caplog):
    profiles = "- history: 3\n  depth: 0\n- history: 3\n  depth: 0\n"
    assert len(read(write_mcap(tmp_path / "clip.mcap", [images(qos=profiles)]))) == 6
    assert "2 publishers wrote /camera" in caplog.text


def test_one_publisher_is_not_warned_of(tmp_path, caplog):
    read(write_mcap(tmp_path / "clip.mcap", [images(qos="- history: 3\n  depth: 0\n"), images("/other")]), "/camera")
    assert not caplog.text


@pytest.mark.parametrize(
    ("channel", "said"),
    [
        (("sensor_msgs/Image", "ros1"), "holds ROS 1 messages: convert"),
        (("sensor_msgs/msg/Image", "ros1"), "holds ROS 1 messages: convert"),
        (("foxglove.CompressedImage", "protobuf"), r"/c \(foxglove\.CompressedImage, protobuf\): messages in protobuf"),
        (("foxglove.RawImage", "json"), r"messages in json are none of ROS 2"),
        (("", "json"), r"/c \(no type, json\)"),
        (("foxglove_msgs/msg/CompressedVideo", "cdr"), "image_transport republish"),
    ],
)
def test_what_is_no_ros2_image_is_refused_with_its_remedy(tmp_path, channel, said):
    path = write_mcap(tmp_path / "clip.mcap", [Channel("/c", *channel, [(1, b"\0\1")])])
    with pytest.raises(SourceError, match=rf"clip\.mcap .*{said}"):
        open_source(path)


def test_ros2_images_beside_other_encodings_play(tmp_path):
    others = [Channel("/p", "foxglove.Log", "protobuf", [(1, b"x")]), Channel("/j", "", "json", [(2, b"{}")])]
    assert len(read(write_mcap(tmp_path / "clip.mcap", [*others, images()]))) == 6


def test_statistics_that_count_too_many_messages_are_no_damage(tmp_path):
    assert len(read(write_mcap(tmp_path / "clip.mcap", [images()], uncounted=1))) == 6


@pytest.mark.parametrize("at", [0.3, 0.6])
def test_a_damaged_chunk_is_an_error(tmp_path, at):
    data = bytearray(write_mcap(tmp_path / "clip.mcap", [images()]).read_bytes())
    data[int(len(data) * at)] ^= 0xFF
    (tmp_path / "clip.mcap").write_bytes(data)
    with pytest.raises(SourceError, match="cut or damaged"):
        read(tmp_path / "clip.mcap")


@pytest.mark.parametrize("chunk", [0, 3])
def test_every_cut_is_an_error(tmp_path, chunk):
    data = write_mcap(tmp_path / "clip.mcap", [images(times=[1, 2])], chunk=chunk).read_bytes()
    for size in range(0, len(data), 7):
        (tmp_path / "cut.mcap").write_bytes(data[:size])
        with pytest.raises(SourceError, match="cut or damaged"):
            read(tmp_path / "cut.mcap")


def test_an_unfinished_recording_is_told_how_to_recover(tmp_path):
    data = write_mcap(tmp_path / "clip.mcap", [images()]).read_bytes()
    (tmp_path / "clip.mcap").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"mcap recover clip\.mcap"):
        read(tmp_path / "clip.mcap")


@pytest.mark.parametrize("name", ["CLIP.MCAP", "clip", "clip.mcap.active", "clip.mp4", "clip.db3", "a b#c?d%e:f.mcap"])
def test_the_name_does_not_matter(tmp_path, name):
    shutil.move(write_mcap(tmp_path / "clip.mcap", [images()]), tmp_path / name)
    assert len(read(tmp_path / name)) == 6
