"""SQLite file of a rosbag2, read by its tables: no setting in metadata.yaml decides what is found."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from saccade_ros.recordings.stored import (
    BagError,
    BagFile,
    Channel,
    StoredMessage,
    count_publishers,
    recorded_reliability,
    ros2_type,
)

SQLITE_START = b"SQLite format 3\0"


class SqliteFile(BagFile):
    """SQLite file of a rosbag2, of any of its schemas.

    Raises:
        BagError: the file is cut, or its newest messages are in another one still; from reading, some cannot be read.
        sqlite3.Error: it is damaged or holds no rosbag2.
    """

    def __init__(self, path: Path) -> None:
        _check_whole(path)
        # As an address, so that no character of the path has a meaning; immutable: nothing is written, not even locks.
        address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        self._database = sqlite3.connect(address, uri=True, check_same_thread=False)
        try:
            self._read_channels()
        except BaseException:
            self.close()
            raise

    def _read_channels(self) -> None:
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(topics)")}
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"  # the oldest schema has none
        rows = self._database.execute(
            f"SELECT topics.id, name, type, serialization_format, count(messages.id), {qos} FROM topics "
            "LEFT JOIN messages ON topics.id = messages.topic_id GROUP BY topics.id ORDER BY topics.id"
        ).fetchall()
        self._types = {number: ros2_type(kind) for number, _, kind, *_ in rows}
        self.channels = [
            Channel(
                name, self._types[number], encoding, count, count_publishers(profiles), recorded_reliability(profiles)
            )
            for number, name, _, encoding, count, profiles in rows
        ]
        times = "SELECT coalesce(min(timestamp), 0), coalesce(max(timestamp), 0) FROM messages"
        self.first_ns, self.last_ns = self._database.execute(times).fetchone()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def messages(self, topic: str) -> Iterator[StoredMessage]:
        """Read a topic's messages in the order of their times, those of one time as they were written."""
        found = 0
        rows = self._database.execute(
            "SELECT timestamp, topic_id, data FROM messages WHERE topic_id IN (SELECT id FROM topics WHERE name = ?) "
            "ORDER BY timestamp, id",
            (topic,),
        )
        for time_ns, number, data in rows:
            found += 1
            yield StoredMessage(time_ns, self._types[number], data)
        count = sum(channel.count for channel in self.channels if channel.topic == topic)
        if found != count:
            raise BagError(f"{found} of its {count} messages on {topic} can be read: it is damaged; copy it again")


def _check_whole(path: Path) -> None:
    """Refuse a file that was interrupted or cut, as far as its size and its neighbours show it.

    SQLite itself takes what a cut last page lacks for zeros: black pixels.
    """
    for suffix in ("-wal", "-journal"):
        rest = path.with_name(path.name + suffix)
        if rest.exists() and rest.stat().st_size:
            raise BagError(
                f"its newest messages are in {rest.name} still: stop the recorder, or let "
                f"`ros2 bag reindex {path.parent}` finish a recording that was interrupted"
            )
    with path.open("rb") as file:
        head = file.read(100)
    page_size = int.from_bytes(head[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size or 1
    has_count = head[24:28] == head[92:96]  # SQLite before 3.7 did not keep the number of pages
    pages = int.from_bytes(head[28:32], "big") if has_count else 0
    size = path.stat().st_size
    if len(head) < 100 or size % page_size or size < pages * page_size:
        raise BagError("it ends before its last page: it is cut or damaged; copy it again")
