"""A bag becomes the images that are in it, or an error that says what to do."""

import pytest
from mcap_files import images, write_mcap
from recorded import BEST_EFFORT, TYPES, image_of, read, record
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores, get_typestore

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import COMPRESSED, IMAGE, SourceError

ROS1_TYPES = get_typestore(Stores.ROS1_NOETIC)


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize("kind", [IMAGE, COMPRESSED])
def test_a_bag_gives_its_messages_untouched(tmp_path, plugin, kind):
    images = read(record(tmp_path / "bag", {"/camera": kind, "/ok": "std_msgs/msg/Bool"}, plugin))
    assert [image.stamp_ns for image in images] == [7 * 10**9 + i for i in range(6)]
    assert [image.time_ns for image in images] == [100 + i for i in range(6)]
    for index, recorded in enumerate(images):
        assert recorded.cdr == bytes(TYPES.serialize_cdr(image_of(TYPES, kind, index), kind))
        assert (recorded.msgtype, recorded.frame_id) == (kind, "optical")
        assert recorded.image.data.tobytes() == bytes([index]) * 12


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
    for index, image in enumerate(images):  # what ROS 2 sends, which has no sequence number
        assert image.cdr == bytes(TYPES.serialize_cdr(image_of(TYPES, IMAGE, index), IMAGE))


@pytest.mark.parametrize("name", ["old.bag", "OLD.BAG", "old.bag.active", "old"])
def test_a_ros1_bag_without_index_is_told_what_makes_one(tmp_path, name):
    with Rosbag1Writer(tmp_path / "whole.bag") as writer:
        connection = writer.add_connection("/camera", IMAGE, typestore=ROS1_TYPES)
        writer.write(connection, 100, ROS1_TYPES.serialize_ros1(image_of(ROS1_TYPES, IMAGE, 0, seq=0), IMAGE))
    data = bytearray((tmp_path / "whole.bag").read_bytes())
    at = data.index(b"index_pos=") + len(b"index_pos=")
    data[at : at + 8] = bytes(8)  # as the recorder leaves it until it ends
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=f"has no index.*`rosbag reindex {name}`"):
        open_source(tmp_path / name)


QOS = {"words": "- reliability: best_effort\n  depth: 5\n", "numbers": "- history: 3\n  reliability: 2\n"}
QOS_READ = {"words": "best_effort", "numbers": "best_effort", "mixed": "reliable", "none": ""}
QOS["mixed"], QOS["none"] = QOS["words"] + "- reliability: reliable\n", ""


@pytest.mark.parametrize("case", QOS_READ)
def test_reliability_is_the_recorded_one(tmp_path, case):
    with open_source(write_mcap(tmp_path / "a.mcap", [images(qos=QOS[case])])) as source:
        assert source.reliability == QOS_READ[case]


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_reliability_is_read_off_a_rosbag2(tmp_path, plugin):
    with open_source(record(tmp_path / "bag", {"/camera": IMAGE}, plugin, qos=[BEST_EFFORT])) as source:
        assert source.reliability == "best_effort"


def test_two_publishers_of_a_ros1_topic_are_warned_of(tmp_path, caplog):
    with Rosbag1Writer(tmp_path / "old.bag") as writer:
        for node in ("/left", "/right"):
            connection = writer.add_connection("/camera", IMAGE, typestore=ROS1_TYPES, callerid=node)
            writer.write(connection, 100, ROS1_TYPES.serialize_ros1(image_of(ROS1_TYPES, IMAGE, 0, seq=0), IMAGE))
    assert len(read(tmp_path / "old.bag")) == 2
    assert "2 publishers wrote /camera" in caplog.text


def test_raw_and_compressed_images_of_one_topic_are_refused(tmp_path):
    with Rosbag1Writer(tmp_path / "old.bag") as writer:
        for kind in (IMAGE, COMPRESSED):
            connection = writer.add_connection("/camera", kind, typestore=ROS1_TYPES, callerid=f"/{kind}")
            writer.write(connection, 100, ROS1_TYPES.serialize_ros1(image_of(ROS1_TYPES, kind, 0, seq=0), kind))
    with pytest.raises(SourceError, match="raw and compressed"):
        open_source(tmp_path / "old.bag")


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


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999, 0.99999])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_cut_db3_is_an_error(tmp_path, fraction, whole_folder):
    folder = record(tmp_path / "clip", {"/camera": IMAGE}, count=200)
    data = (folder / "clip.db3").read_bytes()
    (folder / "clip.db3").write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(SourceError, match="clip"):
        read(folder if whole_folder else folder / "clip.db3")


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_mcap_is_an_error(tmp_path, fraction):
    file = record(tmp_path / "bag", {"/camera": IMAGE}, StoragePlugin.MCAP, count=200) / "bag.mcap"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(SourceError, match="cut or damaged"):
        read(file)
