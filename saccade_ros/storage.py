"""Files and folders that appear whole or not at all.

Each is made in a scratch folder beside its place, brought onto the disk, and renamed. A process killed in between
leaves its scratch folder, `.NAME.partial-PID`; the next write to the same place removes it.
"""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saccade_ros.faults import strike


class StorageError(ValueError):
    """A file or folder that cannot be written as asked. The message names it and the remedy."""


def write_file(target: Path, data: bytes | str) -> None:
    """Write a file, text as UTF-8; one that is there is replaced. Missing folders are made.

    Raises:
        StorageError: what whole_path raises.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    if _is_device(target):
        with _explained(target):
            target.write_bytes(content)
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


def check_file(target: Path) -> None:
    """Try whether whole_path or write_file could write here; for use before long work. Leaves no trace.

    Raises:
        StorageError: `target` is a folder, a symbolic link or a mount point, or its folder cannot be written to.
    """
    if not _is_device(target):
        _check_file(_place(target))


def _check_file(place: Path) -> None:
    if place.exists() and not place.is_file():
        raise StorageError(f"{place} exists and is no file: nothing of yours is overwritten; give another name")
    _try_replacing(place)


def check_folder(target: Path, is_ours: Callable[[Path], bool]) -> None:
    """Try whether whole_folder could write here; for use before long work. Leaves no trace.

    Raises:
        StorageError: `target` is a file, a symbolic link, a mount point or a folder that is not ours, or its own
            folder cannot be written to.
    """
    place = _place(target)
    if place.exists() and (not place.is_dir() or (any(place.iterdir()) and not is_ours(place))):
        raise StorageError(
            f"{target} exists and was not made by this: nothing of yours is overwritten; give another name"
        )
    _try_replacing(place)


@contextmanager
def whole_path(target: Path) -> Iterator[Path]:
    """Give a path to write a file at, or a folder that its writer makes; move it to `target` if the block ends well.

    The path has the target's name, so that writers that go by it, or write it down, do the same as always. A file at
    `target` is replaced.

    Raises:
        StorageError: what check_file raises, or the disk is full.
    """
    _check_file(_place(target))
    with _made_whole(target) as path:
        yield path


@contextmanager
def whole_folder(target: Path, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Give an empty folder to fill; move it to `target` if the block ends well, else delete it.

    Args:
        is_ours: says if a folder is an earlier one of the same kind. Then it is replaced, as an empty one is; anything
            else is refused.

    Raises:
        StorageError: what check_folder raises, or the disk is full.
    """
    check_folder(target, is_ours)
    with _made_whole(target) as folder:
        folder.mkdir()
        yield folder


def home_path(name: str | Path) -> Path:
    """Make a path of what a person wrote, ~ and ~user replaced by that user's home, if there is one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user
        return Path(name)


def _is_device(target: Path) -> bool:
    """Tell what takes data as it comes: pipes and devices, and /dev/stdout also where that leads to a file."""
    if target.parent == Path("/dev/fd") or target in (Path("/dev/stdout"), Path("/dev/stderr")):
        return True
    return os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target)


def _place(target: Path) -> Path:
    """Return the absolute path. A link at its end is not followed: what it leads to was not named."""
    with _explained(target):
        path = home_path(target)
        if path.is_symlink():
            raise StorageError(f"{target} is a symbolic link to {path.readlink()}: give the place itself")
        return path.resolve()


def _try_replacing(place: Path) -> None:
    """Make and remove an empty folder where the scratch folder, or the missing folders above it, will be."""
    if place.is_mount():
        raise StorageError(f"{place} is a mount point, which cannot be replaced: give a name in another folder")
    above = next(folder for folder in place.parents if folder.exists())
    with _explained(place):
        os.rmdir(tempfile.mkdtemp(prefix=f".{place.name[:32]}.", dir=above))


@contextmanager
def _made_whole(target: Path) -> Iterator[Path]:
    place = _place(target)
    with _scratch_beside(place) as scratch:
        with _explained(target, filled=scratch):
            yield scratch / place.name
        with _explained(target):
            _move(scratch / place.name, place)


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LEAST_FREE_BYTES = 1 << 16  # with less, whatever a writer says has failed, the disk was full


@contextmanager
def _explained(target: Path, filled: Path | None = None) -> Iterator[None]:
    """Name the file, the cause and the remedy of a failed write; writers such as torch's name none of them.

    Args:
        filled: the scratch folder, while somebody's writer fills it: then only a full disk is a matter of the target.
    """
    try:
        yield
    except Exception as failed:  # writers raise their own for a full disk; all others are passed on
        code = failed.errno if isinstance(failed, OSError) else None
        if code in _DISK_FULL or (filled is not None and _is_of_full_disk(failed, filled)):
            cause = os.strerror(code or errno.ENOSPC)
            raise StorageError(f"{target} is not written: {cause}; make room in {target.parent}") from failed
        if filled is None and code is not None:
            cause = os.strerror(code)
            raise StorageError(f"{target} cannot be written: {cause}; give a place that you may write to") from failed
        raise


def _is_of_full_disk(failed: Exception, folder: Path) -> bool:
    """Tell it of a writer's own exception: safetensors' holds the system's words, torch's says no reason at all."""
    usage = shutil.disk_usage(folder)
    return os.strerror(errno.ENOSPC) in str(failed) or (usage.total > 0 and usage.free < _LEAST_FREE_BYTES)


@contextmanager
def _scratch_beside(target: Path) -> Iterator[Path]:
    scratch = target.with_name(f".{target.name}.partial-{os.getpid()}")
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
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
        path.chmod(mode & (0o7777 if path.is_dir() else 0o666))
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
