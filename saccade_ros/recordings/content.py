"""Kind of a recording's file, told by its first bytes: its name decides nothing."""

from pathlib import Path

from saccade_ros.recordings.source import SourceError
from saccade_ros.recordings.zstd import ZSTD_START

_PACKED = {  # first bytes of what has to be unpacked, and what unpacks it
    ZSTD_START: "zstd -d",
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x04\x22\x4d\x18": "lz4 -d",
    b"PK\x03\x04": "unzip",
    b"7z\xbc\xaf\x27\x1c": "7z x",
    b"Rar!": "unrar x",
}
_TAR_AT, _TAR = 257, b"ustar"


def read_start(path: Path) -> bytes:
    """Read a file's first bytes, and refuse what is no recording yet: nothing, an archive, a pointer to a file.

    Raises:
        SourceError: it is one of these, no regular file, or cannot be opened.
    """
    if not path.is_file():
        raise SourceError(f"{path} is no file: record the device or stream first, and give the recording")
    try:
        with path.open("rb") as file:
            start = file.read(_TAR_AT + len(_TAR))
    except OSError as error:
        raise SourceError(f"{path} cannot be opened ({error.strerror}): see its permissions") from error
    if not start:
        raise SourceError(f"{path} is empty: it is cut or damaged, or its recording never began; copy it again")
    if start.startswith(b"version https://git-lfs"):
        raise SourceError(f"{path} is a pointer of Git LFS: fetch the file itself with `git lfs pull`")
    unpack = "tar -xf" if start[_TAR_AT:] == _TAR else None
    unpack = unpack or next((command for begin, command in _PACKED.items() if start.startswith(begin)), None)
    if unpack:
        raise SourceError(
            f"{path} is compressed: unpack it with `{unpack} {path.name}`, or give the folder of its bag, if it is "
            "part of a rosbag2 with metadata.yaml"
        )
    return start
