"""MCAP file, read by the records that it holds rather than by its index, which a valid file need not have.

Format: https://mcap.dev/spec. A record is an opcode, the length of its content, and the content.
"""

import heapq
import itertools
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame

from saccade_ros.recordings.stored import (
    BagError,
    BagFile,
    Channel,
    StoredMessage,
    count_publishers,
    recorded_reliability,
    ros2_type,
)
from saccade_ros.recordings.zstd import decompress_zstd

MCAP_START = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _STATISTICS, _DATA_END = 2, 3, 4, 5, 6, 0x0B, 0x0F
_RECORD, _MESSAGE_HEADER, _CHUNK_HEADER = struct.Struct("<BQ"), struct.Struct("<HIQQ"), struct.Struct("<QQQI")
_BLOCK_BYTES = 1 << 20  # of messages outside chunks that are looked through together
_RECOVER = "`mcap recover {name} -o whole.mcap` keeps what there is"


class _Record(NamedTuple):
    opcode: int
    at: int  # of the content
    length: int


class _Block(NamedTuple):
    """Part of the file that is read at once: a chunk, or messages outside of chunks.

    No message in it is older than `first_ns`.
    """

    first_ns: int
    last_ns: int
    at: int
    end: int
    is_chunk: bool

    def extended(self, time_ns: int, end: int) -> "_Block":
        return self._replace(first_ns=min(self.first_ns, time_ns), last_ns=max(self.last_ns, time_ns), end=end)


class McapFile(BagFile):
    """MCAP file. Chunks are looked for in the file itself, so that it needs neither index nor summary.

    Raises:
        BagError: the file was cut or not finished, or a chunk is damaged; from reading, too.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._file = path.open("rb")
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, Channel] = {}  # none counted yet
        self._counts: Counter[int] = Counter()
        try:
            data_start, data_end = self._find_data()
            self._blocks = list(self._find_blocks(data_start, data_end))
            if not self._read_summary(data_end):
                self._scan()
        except BaseException:
            self._file.close()
            raise
        topics = Counter(channel.topic for channel in self._channels.values())
        self.channels = [
            replace(channel, count=self._counts[number], publishers=max(channel.publishers, topics[channel.topic]))
            for number, channel in self._channels.items()
        ]
        self.first_ns = min((block.first_ns for block in self._blocks if block.last_ns), default=0)
        self.last_ns = max((block.last_ns for block in self._blocks), default=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def messages(self, topic: str) -> Iterator[StoredMessage]:
        """Read a topic's messages in the order of their log times, those of one time in the order of the file."""
        wanted = {number for number, channel in self._channels.items() if channel.topic == topic}
        waiting: list[tuple[int, int, int, bytes]] = []
        number_in_file = itertools.count()
        for block in sorted(self._blocks, key=lambda block: block.first_ns):
            while waiting and waiting[0][0] < block.first_ns:
                yield self._stored(*heapq.heappop(waiting))
            for channel, time_ns, data in self._messages_in(block, wanted):
                heapq.heappush(waiting, (time_ns, next(number_in_file), channel, data))
        while waiting:
            yield self._stored(*heapq.heappop(waiting))

    def _stored(self, time_ns: int, _: int, channel: int, data: bytes) -> StoredMessage:
        return StoredMessage(time_ns, self._channels[channel].msgtype, data)

    def _find_data(self) -> tuple[int, int]:
        """Find where the records of the data section begin and end; check that the file has an end."""
        size = self._file.seek(0, 2)
        footer_at = size - len(MCAP_START) - _RECORD.size - 20
        self._file.seek(max(0, footer_at))
        tail = self._file.read()
        if footer_at < len(MCAP_START) or not tail.endswith(MCAP_START) or tail[0] != _FOOTER:
            raise BagError(
                f"its end is missing: it is cut or damaged, or its recording is not finished; {self._remedy}"
            )
        summary_at: int = struct.unpack_from("<Q", tail, _RECORD.size)[0]
        self._footer_at = footer_at
        return len(MCAP_START), summary_at or footer_at

    @property
    def _remedy(self) -> str:
        return f"copy it again; {_RECOVER.format(name=self._name)}"

    def _find_blocks(self, at: int, end: int) -> Iterator[_Block]:
        """Find the blocks of the data section, by the heads of its records alone."""
        loose: _Block | None = None  # messages outside chunks
        for record in self._records(self._file, at, end):
            chunk: _Block | None = None
            if record.opcode == _CHUNK:
                first_ns, last_ns, *_ = _CHUNK_HEADER.unpack(self._file.read(_CHUNK_HEADER.size))
                chunk = _Block(first_ns, last_ns, record.at, record.at + record.length, is_chunk=True)
            elif record.opcode == _MESSAGE:
                time_ns = _MESSAGE_HEADER.unpack(self._file.read(_MESSAGE_HEADER.size))[2]
                loose = loose or _Block(time_ns, time_ns, record.at - _RECORD.size, 0, is_chunk=False)
                loose = loose.extended(time_ns, record.at + record.length)
            self._learn(self._file, record)
            if loose and (chunk or loose.end - loose.at > _BLOCK_BYTES):
                yield loose
                loose = None
            if chunk:
                yield chunk
            if record.opcode == _DATA_END:
                break
        if loose:
            yield loose

    def _read_summary(self, at: int) -> bool:
        """Read the summary; tell whether it names every channel and counts its messages."""
        stated, self._counts = None, Counter()
        for record in self._records(self._file, at, self._footer_at):
            self._learn(self._file, record)
            if record.opcode == _STATISTICS:
                content = self._file.read(record.length)
                message_count, _, stated = struct.unpack_from("<QHI", content)
                self._counts.update(dict(struct.iter_unpack("<HQ", content[46:])))
        counted = stated is not None and self._counts.total() == message_count > 0
        return counted and stated == len(self._channels)

    def _scan(self) -> None:
        """Find every channel, and count the messages, in the blocks themselves."""
        self._counts = Counter()
        for block in self._blocks:
            file, at, end = self._opened(block)
            for record in self._records(file, at, end):
                self._learn(file, record)
                if record.opcode == _MESSAGE:
                    self._counts[_MESSAGE_HEADER.unpack(file.read(_MESSAGE_HEADER.size))[0]] += 1

    def _learn(self, file: BinaryIO, record: _Record) -> None:
        """Remember a schema or a channel."""
        if record.opcode == _SCHEMA:
            content = BytesIO(file.read(record.length))
            (number,) = struct.unpack("<H", content.read(2))
            self._schemas[number] = _text(content)
        elif record.opcode == _CHANNEL:
            content = BytesIO(file.read(record.length))
            number, schema = struct.unpack("<HH", content.read(4))
            topic, encoding = _text(content), _text(content)
            profiles, msgtype = _map(content).get("offered_qos_profiles", ""), ros2_type(self._schemas.get(schema, ""))
            self._channels[number] = Channel(
                topic, msgtype, encoding, 0, count_publishers(profiles), recorded_reliability(profiles)
            )

    def _messages_in(self, block: _Block, wanted: set[int]) -> Iterator[tuple[int, int, bytes]]:
        """Read the messages of some channels: channel, time and data, in the order of the file."""
        file, at, end = self._opened(block)
        for record in self._records(file, at, end):
            if record.opcode == _MESSAGE:
                channel, _, time_ns, _ = _MESSAGE_HEADER.unpack(file.read(_MESSAGE_HEADER.size))
                if channel in wanted:
                    yield channel, time_ns, file.read(record.length - _MESSAGE_HEADER.size)

    def _opened(self, block: _Block) -> tuple[BinaryIO, int, int]:
        """Open a block: where its records lie, decompressed, from where to where."""
        if not block.is_chunk:
            return self._file, block.at, block.end
        self._file.seek(block.at)
        _, _, size, checksum = _CHUNK_HEADER.unpack(self._file.read(_CHUNK_HEADER.size))
        compression = _text(self._file)
        (stored_size,) = struct.unpack("<Q", self._file.read(8))
        content = _decompressed(self._file.read(stored_size), compression)
        if len(content) != size or (checksum and zlib.crc32(content) != checksum):
            raise BagError(f"the chunk at byte {block.at} is cut or damaged; {self._remedy}")
        return BytesIO(content), 0, size

    def _records(self, file: BinaryIO, at: int, end: int) -> Iterator[_Record]:
        """Walk over records, each time with the file at the record's content."""
        while at < end:
            file.seek(at)
            opcode, length = _RECORD.unpack(file.read(_RECORD.size))
            at += _RECORD.size
            if at + length > end:
                raise BagError(f"the record at byte {at} is cut or damaged; {self._remedy}")
            yield _Record(opcode, at, length)
            at += length


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<I", file.read(4))
    return file.read(length).decode("utf-8")


def _map(file: BinaryIO) -> dict[str, str]:
    (length,) = struct.unpack("<I", file.read(4))
    end, entries = file.tell() + length, {}
    while file.tell() < end:
        key = _text(file)
        entries[key] = _text(file)
    return entries


def _decompressed(data: bytes, compression: str) -> bytes:
    if compression == "zstd":
        return decompress_zstd(data)
    if compression == "lz4":
        return bytes(lz4.frame.decompress(data))
    if compression:
        raise BagError(f"its chunks are compressed as {compression!r}: write it anew with `mcap compress`")
    return data
