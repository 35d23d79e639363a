"""The folder of a rosbag2 plays whatever its metadata.yaml says beside the names of its files."""

import shutil

import pytest
import yaml
from mcap_files import images, write_mcap
from recorded import IMAGE, TYPES, image_of, read, record
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import SourceError

BOTH = pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])


def edit(folder, change):
    """Let `change` work on the content of metadata.yaml."""
    path = folder / "metadata.yaml"
    listed = yaml.safe_load(path.read_text())
    change(listed["rosbag2_bagfile_information"])
    path.write_text(yaml.safe_dump(listed))


def _qos(listed):
    never = {"sec": 0, "nsec": 0}
    profile = {"history": 1, "depth": 7, "reliability": 2, "durability": 2, "liveliness": 1}
    profile |= {"deadline": never, "lifespan": never, "liveliness_lease_duration": never}
    topic = listed["topics_with_message_count"][0]["topic_metadata"]
    topic["offered_qos_profiles"] = [profile | {"avoid_ros_namespace_conventions": False}]


def _topic(**changes):
    return lambda listed: listed["topics_with_message_count"][0]["topic_metadata"].update(changes)


def _listed(**changes):
    return lambda listed: listed.update(changes)


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        _qos,
        _topic(offered_qos_profiles="nonsense: ["),
        _topic(type_description_hash="RIHS01_0"),
        _topic(type="sensor_msgs/Image"),
        _listed(version=99),
        _listed(version=1),
        _listed(storage_identifier="my_plugin"),
        _listed(message_count=0, duration={"nanoseconds": 0}),
        _listed(topics_with_message_count=None),
        _listed(compression_mode="FILE", compression_format="zstd"),
    ],
)
def test_an_edited_setting_hides_nothing(tmp_path, plugin, change):
    folder = record(tmp_path / "bag", {"/camera": IMAGE}, plugin)
    edit(folder, change)
    assert [image.image.data[0] for image in read(folder)] == list(range(6))


def test_fewer_messages_than_it_lists_are_an_error_with_the_way_out(tmp_path):
    """Whether they are lost or somebody edited the list cannot be told: half a recording looks like a good one."""
    folder = record(tmp_path / "bag", {"/camera": IMAGE})
    edit(folder, lambda listed: listed["topics_with_message_count"][0].update(message_count=9))
    with pytest.raises(SourceError, match=r"6 of the 9 messages on /camera .* `ros2 bag reindex"):
        open_source(folder)


def test_more_messages_than_it_lists_play(tmp_path):
    folder = record(tmp_path / "bag", {"/camera": IMAGE})
    edit(folder, lambda listed: listed["topics_with_message_count"][0].update(message_count=2))
    assert len(read(folder)) == 6


@BOTH
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_a_compressed_bag_plays_whatever_is_said_of_its_compression(tmp_path, plugin, mode):
    recorder = Writer(tmp_path / "bag", version=9, storage_plugin=plugin)
    recorder.set_compression(mode, CompressionFormat.ZSTD)
    with recorder as writer:
        connection = writer.add_connection("/camera", IMAGE, typestore=TYPES)
        for index in range(6):
            writer.write(connection, 100 + index, TYPES.serialize_cdr(image_of(TYPES, IMAGE, index), IMAGE))
    images = read(tmp_path / "bag")
    assert [image.cdr for image in images] == [
        bytes(TYPES.serialize_cdr(image_of(TYPES, IMAGE, index), IMAGE)) for index in range(6)
    ]
    edit(tmp_path / "bag", _listed(compression_mode="", compression_format=""))
    assert len(read(tmp_path / "bag")) == 6


def test_a_file_that_was_unpacked_since_is_found(tmp_path):
    folder = record(tmp_path / "bag", {"/camera": IMAGE})
    edit(folder, lambda listed: listed.update(relative_file_paths=["bag.db3.zstd"]))
    assert len(read(folder)) == 6


def test_the_files_of_a_split_bag_play_one_after_the_other(tmp_path):
    folder = record(tmp_path / "bag", {"/camera": IMAGE})
    write_mcap(folder / "second.mcap", [images(times=range(200, 206))])
    edit(folder, lambda listed: listed["relative_file_paths"].append("elsewhere/second.mcap"))
    with open_source(folder) as source:
        assert [image.time_ns for image in source] == [*range(100, 106), *range(200, 206)]
        assert (source.count, source.duration_s) == (12, 105e-9)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    folder = record(tmp_path / "bag", {"/camera": IMAGE})
    (folder / "bag.db3").unlink()
    with pytest.raises(SourceError, match=r"its file bag\.db3 is missing"):
        open_source(folder)


@pytest.mark.parametrize("text", ["", "rosbag2_bagfile_information:", "- 1", "a: [", "\x00\x01", "rosbag2_bag"])
def test_damaged_metadata_is_an_error_with_the_way_out(tmp_path, text):
    folder = record(tmp_path / "bag", {"/camera": IMAGE})
    (folder / "metadata.yaml").write_text(text)
    with pytest.raises(SourceError, match=r"metadata\.yaml .*`ros2 bag reindex"):
        open_source(folder)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"no metadata\.yaml"):
        open_source(tmp_path)


@BOTH
@pytest.mark.parametrize("name", ["run#1", "what?", "50%", "a%20b", "c:d", "día 1", "-x", "a&b=c"])
def test_no_character_of_a_path_has_a_meaning(tmp_path, plugin, name):
    folder = shutil.move(record(tmp_path / "bag", {"/camera": IMAGE}, plugin), tmp_path / name)
    (file,) = (path for path in folder.iterdir() if path.suffix != ".yaml")
    assert len(read(folder)) == len(read(file)) == 6
