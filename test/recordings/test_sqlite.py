"""A SQLite file of any rosbag2 gives its messages, or an error that says what it lacks."""

import sqlite3
from pathlib import Path

import pytest
from recorded import IMAGE, TYPES, image_of, read, record

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import SourceError

FOXY = """
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
  serialization_format TEXT NOT NULL{qos});
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,
  data BLOB NOT NULL);
"""


def write_db3(path, qos="", encoding="cdr", times=range(100, 106)):
    """A file as the first releases of rosbag2 wrote it; `qos` gives it the column of the next ones."""
    database = sqlite3.connect(path)
    database.executescript(FOXY.format(qos=", offered_qos_profiles TEXT NOT NULL" if qos else ""))
    row = (1, "/camera", IMAGE, encoding, *([qos] if qos else []))
    database.execute(f"INSERT INTO topics VALUES ({','.join('?' * len(row))})", row)
    for index, time in enumerate(times):
        data = bytes(TYPES.serialize_cdr(image_of(TYPES, IMAGE, index), IMAGE))
        database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)", (time, data))
    database.commit()
    database.close()
    return path


def test_the_oldest_schema_plays(tmp_path):
    assert len(read(write_db3(tmp_path / "old.db3"))) == 6


def test_messages_come_in_the_order_of_their_times(tmp_path):
    path = write_db3(tmp_path / "mixed.db3", times=[5, 3, 5, 1])
    assert [(image.time_ns, image.image.data[0]) for image in read(path)] == [(1, 3), (3, 1), (5, 0), (5, 2)]


def test_two_publishers_are_warned_of(tmp_path, caplog):
    read(write_db3(tmp_path / "two.db3", qos="- history: 3\n- history: 3"))
    assert "2 publishers wrote /camera" in caplog.text


def test_another_serialization_is_refused_by_name(tmp_path):
    with pytest.raises(SourceError, match="messages in cbor are none of ROS 2"):
        open_source(write_db3(tmp_path / "cbor.db3", encoding="cbor"))


def test_another_database_is_an_error(tmp_path):
    database = sqlite3.connect(tmp_path / "other.db3")
    database.execute("CREATE TABLE songs(name TEXT)")
    database.close()
    with pytest.raises(SourceError, match=r"other\.db3 .*no such table: topics"):
        open_source(tmp_path / "other.db3")


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_messages_in_another_file_still_are_an_error(tmp_path, suffix):
    path = write_db3(tmp_path / "clip.db3")
    Path(f"{path}{suffix}").touch()
    assert len(read(path)) == 6  # nothing is in it
    Path(f"{path}{suffix}").write_bytes(b"newest messages")
    with pytest.raises(SourceError, match=rf"clip\.db3{suffix} .*`ros2 bag reindex"):
        open_source(path)


def test_a_file_cut_between_two_pages_is_an_error(tmp_path):
    path = record(tmp_path / "clip", {"/camera": IMAGE}, count=200) / "clip.db3"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 8192 * 4096])
    with pytest.raises(SourceError, match="before its last page"):
        open_source(path)


def test_nothing_is_written_beside_the_file(tmp_path):
    folder = record(tmp_path / "bag", {"/camera": IMAGE})
    before = sorted(path.name for path in folder.iterdir())
    read(folder)
    assert sorted(path.name for path in folder.iterdir()) == before
