"""An output folder that appears whole or not at all."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saccade_ros.backends.manifest import FILE
from saccade_ros.export.graph import ExportError


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a scratch folder beside `target`; rename it to `target` if the block ends well, else delete it.

    An earlier export at `target` is replaced; anything else is refused. A process killed in between leaves its scratch
    folder, which holds no manifest and so does not load; the next export to the same place removes it.

    Raises:
        ExportError: `target` is a file, or a folder that is no export.
    """
    target = target.expanduser().absolute()
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / FILE).exists())):
        raise ExportError(f"{target} exists and is no export: nothing of yours is overwritten; name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    scratch = target.with_name(f".{target.name}.partial-{os.getpid()}")
    scratch.mkdir()
    try:
        yield scratch
        for path in [*scratch.rglob("*"), scratch]:
            path.chmod(0o755 if path.is_dir() else 0o644)  # onnx writes for its user alone
            _sync(path)
        _replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(scratch: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.partial-{os.getpid()}-old")
    if target.exists():
        target.rename(old)
    scratch.rename(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Onto the disk before anything that refers to it."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _remove_leftovers(target: Path) -> None:
    for path in target.parent.glob(f".{target.name}.partial-*"):
        owner = re.search(r"\.partial-(\d+)(-.*)?$", path.name)
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
