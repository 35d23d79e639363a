"""Small clips, a teacher for them, and the cache of both."""

from pathlib import Path

import pytest
import torch
from caches import make_cache
from clips import write_pan
from tiny_teacher import write_teacher


@pytest.fixture(autouse=True)
def _one_thread():
    """So that bits can be compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Folder of four pans over places of their own, 12 tubelets each."""
    folder = tmp_path_factory.mktemp("clips")
    for place in range(4):
        write_pan(folder / f"place{place}.mp4", place)
    return folder


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "tiny.onnx")


@pytest.fixture(scope="session")
def cache_folder(clips, teacher_file, tmp_path_factory) -> Path:
    """Cache of 32 views."""
    folder = tmp_path_factory.mktemp("caches") / "cache"
    assert make_cache(clips, teacher_file, folder) == 0
    return folder
