"""Files and folders that appear whole or not at all.

Each is made in a scratch folder beside its place, brought onto the disk, and renamed. A process killed in between
leaves its scratch folder, `.NAME.partial-PID`; the next write to the same place removes it.
"""

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saccade_ros.faults import strike


class StorageError(ValueError):
    """A file or folder that cannot be written as asked. The message names it and the remedy."""


def write_file(target: Path, data: bytes | str) -> None:
    """Write a file, text as UTF-8; one that is there is replaced. Missing folders are made."""
    content = data.encode("utf-8") if isinstance(data, str) else data
    if target.exists() and not target.is_file() and not target.is_dir():
        target.write_bytes(content)  # /dev/stdout and other pipes and devices take it as it comes
        return
    with whole_path(target) as path:
        path.write_bytes(content)


def write_json(target: Path, value: Any) -> None:
    """Write a value as strict, indented JSON.

    Raises:
        StorageError: it holds NaN or infinity, which JSON has not.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as wrong:
        raise StorageError(f"{target} is not written: {wrong}; put null in its place") from wrong
    write_file(target, text + "\n")


def sha256_of(path: Path) -> str:
    """Compute the hex digest of a file's content, or of a folder's: the names and digests of all files below it."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(below for below in path.rglob("*") if below.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def whole_path(target: Path) -> Iterator[Path]:
    """Give a path to write a file at, or a folder that its writer makes; move it to `target` if the block ends well.

    The path has the target's name, so that writers that go by it, or write it down, do the same as always. A file at
    `target` is replaced.

    Raises:
        StorageError: `target` is a folder, or no regular file.
    """
    target = _resolved(target)
    if target.exists() and not target.is_file():
        raise StorageError(f"{target} exists and is no file: nothing of yours is overwritten; give another name")
    with _scratch_beside(target) as scratch:
        yield scratch / target.name
        _move(scratch / target.name, target)


@contextmanager
def whole_folder(target: Path, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Give an empty folder to fill; move it to `target` if the block ends well, else delete it.

    Args:
        is_ours: says if a folder is an earlier one of the same kind. Then it is replaced, as an empty one is; anything
            else is refused.

    Raises:
        StorageError: `target` is a file, or a folder that is not ours.
    """
    target = _resolved(target)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not is_ours(target))):
        raise StorageError(
            f"{target} exists and was not made by this: nothing of yours is overwritten; give another name"
        )
    with _scratch_beside(target) as scratch:
        folder = scratch / target.name
        folder.mkdir()
        yield folder
        _move(folder, target)


def home_path(name: str | Path) -> Path:
    """Make a path of what a person wrote, ~ and ~user replaced by that user's home, if there is one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user
        return Path(name)


def _resolved(target: Path) -> Path:
    """Absolute, links followed: what a link points to is written, and the link stays."""
    return home_path(target).resolve()


@contextmanager
def _scratch_beside(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    scratch = target.with_name(f".{target.name}.partial-{os.getpid()}")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move(made: Path, target: Path) -> None:
    """Bring everything onto the disk, then rename; what stood there goes with the scratch folder."""
    strike("write")
    mode = made.parent.stat().st_mode  # as this user makes folders; onnx, for one, writes for its user alone
    for path in [*made.rglob("*"), made]:
        path.chmod(mode & (0o777 if path.is_dir() else 0o666))
        _sync(path)
    if target.is_dir():
        target.rename(made.with_name(f"{made.name}.replaced"))
    made.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _remove_leftovers(target: Path) -> None:
    for path in target.parent.glob(f"{glob.escape(f'.{target.name}.partial-')}*"):
        owner = re.fullmatch(r".*\.partial-(\d+)", path.name)
        # This process has none yet; in a container the one before had the same id.
        if owner and (int(owner[1]) == os.getpid() or not _is_alive(int(owner[1]))):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
