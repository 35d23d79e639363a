"""Bags and videos become the images that are in them, or an error that says what to do."""

import shutil
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import Stores, get_typestore

from saccade_ros.recordings.source import (
    COMPRESSED,
    FIRST_STAMP_NS,
    IMAGE,
    SourceError,
    _in_time,
    open_source,
    write_bag,
)
from saccade_ros.vision.images import decode_image

WIDTH, HEIGHT, FRAMES, FPS = 96, 64, 24, 20
PERIOD_NS = 10**9 // FPS
TYPES, ROS1_TYPES = get_typestore(Stores.ROS2_JAZZY), get_typestore(Stores.ROS1_NOETIC)


def picture(index):
    """A square that moves right over a slope; unlike after a turn or with red and blue swapped."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = np.linspace(0, 200, WIDTH, dtype=np.uint8)
    image[20:36, 2 * index : 2 * index + 16] = (250, 240, 30)
    return image


def write_video(path, pts=range(FRAMES), **options):
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        for index, time in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def image_of(types, topic_type, index, data=b"", **header):
    """A message of `types`; `header` takes the sequence number that ROS 1 wants."""
    time = types.types["builtin_interfaces/msg/Time"](sec=7, nanosec=index)
    head = types.types["std_msgs/msg/Header"](stamp=time, frame_id="optical", **header)
    pixels = np.frombuffer(data, np.uint8) if data else np.full(12, index, np.uint8)
    if topic_type == COMPRESSED:
        return types.types[COMPRESSED](header=head, format="jpeg", data=pixels)
    return types.types[IMAGE](header=head, height=2, width=2, encoding="rgb8", is_bigendian=0, step=6, data=pixels)


def record(path, topics, plugin=StoragePlugin.SQLITE3, count=6):
    """A rosbag2 with `count` messages on each topic; topics maps names to types."""
    with Rosbag2Writer(path, version=9, storage_plugin=plugin) as writer:
        for topic, kind in topics.items():
            connection = writer.add_connection(topic, kind, typestore=TYPES)
            for index in range(count):
                message = TYPES.types["std_msgs/msg/Bool"](data=True)
                if kind in (IMAGE, COMPRESSED):
                    message = image_of(TYPES, kind, index)
                writer.write(connection, 100 + index, TYPES.serialize_cdr(message, kind))
    return path


def read(path, topic=None):
    with open_source(path, topic) as source:
        return list(source)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", movflags="faststart")


@pytest.fixture(scope="module")
def bag(video, tmp_path_factory):
    path = tmp_path_factory.mktemp("bag") / "clip"
    write_bag(video, path)
    return path


# Videos


def test_a_video_gives_its_pictures_in_order(video):
    images = read(video)
    assert len(images) == FRAMES
    for index, image in enumerate(images):
        shown = decode_image(image.message, 10**6)
        assert np.abs(shown.astype(int) - picture(index)).mean() < 6
        assert (image.msgtype, image.cdr, image.frame_id) == (IMAGE, None, "camera")


def test_a_video_says_what_it_holds_before_it_is_read(video):
    with open_source(video, "/front") as source:
        assert (source.topic, source.msgtype, source.count) == ("/front", IMAGE, FRAMES)
        assert source.duration_s == pytest.approx(FRAMES / FPS)


def test_stamps_are_the_video_times(video):
    assert [image.stamp_ns for image in read(video)] == [FIRST_STAMP_NS + i * PERIOD_NS for i in range(FRAMES)]


def test_a_variable_frame_rate_is_kept(tmp_path):
    pts = [3, 4, 9, 10, 30]
    images = read(write_video(tmp_path / "variable.mp4", pts))
    assert [image.stamp_ns - FIRST_STAMP_NS for image in images] == [(p - 3) * PERIOD_NS for p in pts]


def test_each_iteration_starts_at_the_beginning(video, bag):
    for path in (video, bag):
        with open_source(path) as source:
            assert [i.stamp_ns for i in source] == [i.stamp_ns for i in source]


def test_stamps_stored_in_decoding_order_are_put_in_order():
    """The frames come in the order to show them, their stamps permuted: seen in the wild."""
    frames = [SimpleNamespace(pts=pts, shown=i) for i, pts in enumerate([0, 3, 2, 4, 1, 7, 6, 8, 5])]
    assert [(frame.shown, pts) for frame, pts in _in_time(frames, 1000)] == [(i, i) for i in range(9)]


def test_a_jump_back_in_time_is_not_sorted_away():
    """A spliced recording: the stream has to notice, and start afresh."""
    stamps = [*range(5000, 5040), *range(40)]
    frames = [SimpleNamespace(pts=pts) for pts in stamps]
    assert [pts for _, pts in _in_time(frames, 1000)] == stamps


@pytest.mark.parametrize(("turned", "matrix"), [(3, (0, 1, -1, 0)), (2, (-1, 0, 0, -1)), (1, (0, -1, 1, 0))])
def test_a_phone_video_is_turned_upright(video, tmp_path, turned, matrix):
    a, b, c, d = matrix
    data = bytearray(video.read_bytes())
    at = data.index(b"tkhd") + 44  # the track's display matrix, ISO/IEC 14496-12 8.3.2
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "phone.mp4").write_bytes(data)
    shown = decode_image(read(tmp_path / "phone.mp4")[5].message, 10**6)
    assert np.abs(shown.astype(int) - np.rot90(picture(5), turned)).mean() < 6


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("flags", ["faststart", ""], ids=["index first", "index last"])
def test_a_cut_mp4_is_an_error(tmp_path, share, flags):
    data = write_video(tmp_path / "whole.mp4", **({"movflags": flags} if flags else {})).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match=r"cut\.mp4"):
        read(tmp_path / "cut.mp4")


@pytest.mark.parametrize("share", [0.1, 0.4])
@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_other_cut_videos_are_an_error(tmp_path, kind, share):
    data = write_video(tmp_path / f"whole.{kind}", range(4 * FRAMES)).read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match=f"cut.{kind}"):
        read(tmp_path / f"cut.{kind}")


@pytest.mark.parametrize("name", ["notes.txt", "notes.nfo", "notes.mp4", "notes", "notes.yuv", "notes.jpg"])
def test_text_is_no_video(tmp_path, name):
    """FFmpeg would draw a .txt as ANSI art."""
    (tmp_path / name).write_text("meeting at ten\n" * 500)
    with pytest.raises(SourceError, match=name):
        read(tmp_path / name)


def test_sound_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(SourceError, match="no video"):
        open_source(tmp_path / "sound.wav")


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        open_source(tmp_path / "nowhere.mp4")


# Bags


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize("kind", [IMAGE, COMPRESSED])
def test_a_bag_gives_its_messages_untouched(tmp_path, plugin, kind):
    images = read(record(tmp_path / "bag", {"/camera": kind, "/ok": "std_msgs/msg/Bool"}, plugin))
    assert [image.stamp_ns for image in images] == [7 * 10**9 + i for i in range(6)]
    assert [image.time_ns for image in images] == [100 + i for i in range(6)]
    for index, image in enumerate(images):
        assert image.cdr == bytes(TYPES.serialize_cdr(image_of(TYPES, kind, index), kind))
        assert (image.msgtype, image.frame_id) == (kind, "optical")
        assert image.message.data.tobytes() == bytes([index]) * 12


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_a_bags_file_alone_can_be_read(tmp_path, plugin):
    record(tmp_path / "bag", {"/camera": IMAGE}, plugin)
    (file,) = (path for path in (tmp_path / "bag").iterdir() if path.suffix in (".db3", ".mcap"))
    assert len(read(file)) == 6


def test_a_ros1_bag_can_be_read(tmp_path):
    with Rosbag1Writer(tmp_path / "old.bag") as writer:
        connection = writer.add_connection("/camera", IMAGE, typestore=ROS1_TYPES)
        for index in range(4):
            message = image_of(ROS1_TYPES, IMAGE, index, seq=index)
            writer.write(connection, 100 + index, ROS1_TYPES.serialize_ros1(message, IMAGE))
    images = read(tmp_path / "old.bag")
    assert [image.stamp_ns for image in images] == [7 * 10**9 + i for i in range(4)]
    assert images[0].cdr is None  # what it stores is not what ROS 2 sends


def test_the_only_image_topic_is_taken(tmp_path):
    with open_source(record(tmp_path / "bag", {"/ok": "std_msgs/msg/Bool", "/camera": IMAGE})) as source:
        assert (source.topic, source.msgtype, source.count) == ("/camera", IMAGE, 6)


def test_of_several_image_topics_one_must_be_chosen(tmp_path):
    path = record(tmp_path / "bag", {"/left": IMAGE, "/right": COMPRESSED})
    with pytest.raises(SourceError, match=r"/left \(6 messages\), /right \(6 messages\)"):
        open_source(path)
    assert {image.msgtype for image in read(path, "/right")} == {COMPRESSED}


def test_an_unknown_topic_is_an_error_that_lists_the_others(tmp_path):
    with pytest.raises(SourceError, match=r"/nose .* choose one of /camera"):
        open_source(record(tmp_path / "bag", {"/camera": IMAGE}), "/nose")


def test_a_topic_of_another_type_is_an_error_that_names_it(tmp_path):
    path = record(tmp_path / "bag", {"/camera": IMAGE, "/ok": "std_msgs/msg/Bool"})
    with pytest.raises(SourceError, match=r"/ok .* std_msgs/msg/Bool: choose one of /camera"):
        open_source(path, "/ok")


def test_a_bag_without_images_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"no image topic, but /ok"):
        open_source(record(tmp_path / "bag", {"/ok": "std_msgs/msg/Bool"}))


def test_a_topic_without_messages_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no messages"):
        open_source(record(tmp_path / "bag", {"/camera": IMAGE}, count=0))


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"metadata\.yaml"):
        open_source(tmp_path)


def test_messages_still_in_the_write_ahead_log_are_an_error(bag, tmp_path):
    file = Path(shutil.copy(bag / "clip.db3", tmp_path))
    file.with_name("clip.db3-wal").write_bytes(b"newest messages")
    with pytest.raises(SourceError, match=r"clip\.db3-wal"):
        open_source(file)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999, 0.99999])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_cut_db3_is_an_error(bag, tmp_path, share, whole_folder):
    folder = Path(shutil.copytree(bag, tmp_path / "clip"))
    data = (folder / "clip.db3").read_bytes()
    (folder / "clip.db3").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match="clip"):
        read(folder if whole_folder else folder / "clip.db3")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_mcap_is_an_error(tmp_path, share):
    file = record(tmp_path / "bag", {"/camera": IMAGE}, StoragePlugin.MCAP, count=200) / "bag.mcap"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match="cut or damaged"):
        read(file)


def test_a_bag_with_fewer_messages_than_it_lists_is_an_error(bag, tmp_path):
    folder = Path(shutil.copytree(bag, tmp_path / "clip"))
    metadata = folder / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(f"message_count: {FRAMES}", f"message_count: {FRAMES + 3}"))
    with pytest.raises(SourceError, match=f"{FRAMES} of the {FRAMES + 3} messages"):
        read(folder)


# Video to bag


def test_a_bag_made_from_a_video_has_its_stamps_and_pictures(video, bag):
    originals, copies = read(video), read(bag)
    assert [replace(c, message=None, cdr=None, msgtype="") for c in copies] == [
        replace(o, message=None, cdr=None, msgtype="") for o in originals
    ]
    for original, copy in zip(originals, copies, strict=True):
        before, after = decode_image(original.message, 10**6), decode_image(copy.message, 10**6)
        assert np.abs(before.astype(int) - after).mean() < 3  # what JPEG costs


def test_progress_is_told_frame_by_frame(video, tmp_path):
    told = []
    assert write_bag(video, tmp_path / "bag", progress=lambda done, of: told.append((done, of))) == FRAMES
    assert told == [(i + 1, FRAMES) for i in range(FRAMES)]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_nothing(video, tmp_path, interruption):
    def interrupt(done, _):
        if done == 5:
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
    before = (bag / "clip.db3").read_bytes()
    with pytest.raises(SourceError, match="exists"):
        write_bag(video, bag)
    assert (bag / "clip.db3").read_bytes() == before


def test_a_bag_is_not_made_into_a_bag(bag, tmp_path):
    with pytest.raises(SourceError, match="is a bag already"):
        write_bag(bag, tmp_path / "bag")
