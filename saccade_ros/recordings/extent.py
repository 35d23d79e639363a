"""Length that a video file declares, in bytes: whether it is whole is told by its structure, not by counting frames."""

from pathlib import Path
from typing import BinaryIO

_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"free", b"skip", b"wide", b"uuid"})
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_TS_SYNC, _TS_PACKET = 0x47, 188


def declared_bytes(path: Path) -> int | None:
    """Find the end of the last outermost element of an MP4, AVI, Matroska or MPEG-TS file, by the size it declares.

    Returns:
        A number of bytes; None where the file declares none, as of another kind or recorded live.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_TS_PACKET + 1)
        if start[4:8] in _BOXES:
            return _end_of_boxes(file, size)
        if start.startswith(b"RIFF"):
            return _end_of_riff(file)
        if start.startswith(_EBML):
            return _end_of_segment(file)
    if len(start) > _TS_PACKET and start[0] == start[_TS_PACKET] == _TS_SYNC:
        return -(-size // _TS_PACKET) * _TS_PACKET  # whole packets
    return None


def _end_of_boxes(file: BinaryIO, size: int) -> int | None:
    """Walk over the boxes of an MP4 or QuickTime file (ISO/IEC 14496-12, 4.2); what phones append is none."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        if head[4:8] not in _BOXES:
            return at
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: it reaches to the end, wherever that is
            return None
        at += length
    return at


def _end_of_riff(file: BinaryIO) -> int | None:
    """Walk over the RIFF lists of an AVI file: large ones have several (OpenDML)."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[4:8], "little")
        if not head.startswith(b"RIFF"):
            return at - 8  # some writers count the 8 bytes of the head, too
        if length in (0, 0xFFFFFFFF):  # filled in when a recording ends
            return None
        at += 8 + length + length % 2


def _end_of_segment(file: BinaryIO) -> int | None:
    """Find the end of a Matroska file's segment (RFC 8794, RFC 9559)."""
    file.seek(len(_EBML))
    length = _vint(file) or 0
    file.seek(length, 1)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return None
    declared = _vint(file)
    return None if declared is None else file.tell() + declared


def _vint(file: BinaryIO) -> int | None:
    """Read a number of variable length; None if all its bits are set, which means unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(first + file.read(more), "big") & ((1 << 7 * (more + 1)) - 1)
    return None if value == (1 << 7 * (more + 1)) - 1 else value
