"""Files and folders appear whole or not at all, whatever happens, and nothing of the user's is overwritten."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from saccade_ros.storage import (
    StorageError,
    check_file,
    check_folder,
    sha256_of,
    whole_folder,
    whole_path,
    write_file,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_ours(folder: Path) -> bool:
    return (folder / "ours").exists()


def test_file_is_written_with_its_folders_and_replaced(tmp_path):
    file = tmp_path / "a" / "b.txt"
    write_file(file, "grün")
    write_file(file, b"\x00")
    assert file.read_bytes() == b"\x00"
    assert names(file.parent) == ["b.txt"]


def test_json_is_strict_and_ends_with_a_line(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1, None]})
    assert (tmp_path / "x.json").read_text().endswith("}\n")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, None]}
    with pytest.raises(StorageError, match=r"y\.json is not written"):
        write_json(tmp_path / "y.json", {"a": float("inf")})
    assert names(tmp_path) == ["x.json"]


def test_writer_that_fails_leaves_what_was_there(tmp_path):
    def write(target: Path) -> None:
        with whole_path(target) as path:
            assert path.name == "x.bin", "writers go by the suffix"
            path.write_text("half")
            raise RuntimeError("disk")

    (tmp_path / "x.bin").write_text("before")
    with pytest.raises(RuntimeError, match="disk"):
        write(tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_text() == "before"
    assert names(tmp_path) == ["x.bin"]


def test_a_path_may_become_a_folder(tmp_path):
    with whole_path(tmp_path / "bag") as path:
        (path / "inside").mkdir(parents=True)
    assert names(tmp_path / "bag") == ["inside"]
    with pytest.raises(StorageError, match="nothing of yours is overwritten"), whole_path(tmp_path / "bag"):
        pass


@pytest.mark.parametrize("way", ["write_file", "whole_path", "whole_folder", "check_file", "check_folder"])
def test_link_is_refused_with_the_place_it_leads_to(tmp_path, way):
    """Who plants a link in a shared folder must not choose what is overwritten."""
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    write = {
        "write_file": lambda: write_file(tmp_path / "link", "new"),
        "whole_path": lambda: whole_path(tmp_path / "link").__enter__(),
        "whole_folder": lambda: whole_folder(tmp_path / "link", is_ours).__enter__(),
        "check_file": lambda: check_file(tmp_path / "link"),
        "check_folder": lambda: check_folder(tmp_path / "link", is_ours),
    }
    with pytest.raises(StorageError, match=r"link is a symbolic link to .*precious: give the place itself"):
        write[way]()
    assert (tmp_path / "precious").read_text() == "years of work"
    assert names(tmp_path) == ["link", "precious"]


def test_link_in_place_of_the_scratch_folder_is_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").touch()
    (tmp_path / f".out.partial-{os.getpid()}").symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError, match="out cannot be written: File exists"):
        write_file(tmp_path / "out", "new")
    assert names(tmp_path / "precious") == ["thesis"]


def test_pipe_takes_the_data_as_it_comes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    write_file(tmp_path / "pipe", "through")
    assert reader.communicate(timeout=10)[0] == b"through"
    with pytest.raises(StorageError, match="is no file"), whole_path(tmp_path / "pipe"):
        pass


def test_folder_of_ours_or_empty_is_replaced(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    for content in ("ours", "more"):
        with whole_folder(target, is_ours) as folder:
            assert folder.name == "out"
            assert list(folder.iterdir()) == []
            (folder / "ours").touch()
            (folder / content).write_text(content)
    assert names(target) == ["more", "ours"]
    assert names(tmp_path) == ["out"]


def test_folder_is_replaced_only_by_a_whole_one(tmp_path):
    def make(content: str, then: BaseException | None = None) -> None:
        with whole_folder(target, is_ours) as folder:
            (folder / "ours").write_text(content)
            if then:
                raise then

    target = tmp_path / "out"
    make("first")
    with pytest.raises(KeyboardInterrupt):
        make("second", KeyboardInterrupt())
    assert (target / "ours").read_text() == "first"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_of_the_user_s_is_overwritten(tmp_path, kind):
    target = tmp_path / "thesis"
    work = target / "thesis.tex" if kind == "folder" else target
    work.parent.mkdir(exist_ok=True)
    work.write_text("years of work")
    with pytest.raises(StorageError, match="nothing of yours is overwritten"), whole_folder(target, is_ours):
        pass
    assert work.read_text() == "years of work"
    assert names(tmp_path) == ["thesis"]


def test_permissions_are_those_of_anything_this_user_makes(tmp_path):
    with whole_folder(tmp_path / "out", is_ours) as folder:
        (folder / "private").touch(mode=0o600)
    (tmp_path / "plain").touch()
    assert (tmp_path / "out" / "private").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_umask_is_respected(tmp_path, umask):
    code = (
        "import os, sys; from pathlib import Path; from saccade_ros import storage\n"
        "os.umask(int(sys.argv[2])); out = Path(sys.argv[1])\n"
        "storage.write_file(out / 'deep' / 'file', 'x'); (out / 'plain').touch(); (out / 'plainer').mkdir()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(umask)], check=True)
    modes = {name: (tmp_path / name).stat().st_mode for name in ("deep", "deep/file", "plain", "plainer")}
    assert (modes["deep"], modes["deep/file"]) == (modes["plainer"], modes["plain"])


# What a full disk does, without a disk to fill: a limit on the size of files. Writers report it in their own ways.
FULL = (
    "import resource, sys; from pathlib import Path; from saccade_ros import storage\n"
    "import numpy as np, torch, yaml\n"
    "from matplotlib.figure import Figure\n"
    "from safetensors.numpy import save_file\n"
    "big = np.random.default_rng(0).random(100_000)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    "write = {'write_file': lambda p: storage.write_file(p, big.tobytes()),\n"
    "  'write_json': lambda p: storage.write_json(p, big.tolist()),\n"
    "  'figure': lambda p: Figure().savefig(p, format='png', dpi=300)}[sys.argv[2]]\n"
    "try:\n"
    "  if sys.argv[2].startswith('write'): write(Path(sys.argv[1]))\n"
    "  else:\n"
    "    with storage.whole_path(Path(sys.argv[1])) as path: write(path)\n"
    "except storage.StorageError as refused: print(refused)\n"
)


@pytest.mark.parametrize("way", ["write_file", "write_json", "figure"])
def test_full_disk_is_named_with_the_file_and_leaves_what_was_there(tmp_path, way):
    target = tmp_path / "out"
    target.write_text("before")
    done = subprocess.run([sys.executable, "-c", FULL, str(target), way], capture_output=True, text=True, check=True)
    assert done.stdout == f"{target} is not written: File too large; make room in {tmp_path}\n"
    assert target.read_text() == "before"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("free", "said"), [(0, "file write failed"), (10**9, "I/O error: No space left on device (os error 28)")]
)
def test_exception_of_a_writer_s_own_on_a_full_disk_is_explained(tmp_path, monkeypatch, free, said):
    """As torch.save says it, and safetensors, which takes back what it wrote."""
    disk = shutil._ntuple_diskusage(10**9, 0, free)
    monkeypatch.setattr("saccade_ros.storage.shutil.disk_usage", lambda folder: disk)
    with (
        pytest.raises(StorageError, match=r"x\.pt is not written: No space left on device; make room in"),
        whole_path(tmp_path / "x.pt"),
    ):
        raise RuntimeError(said)


@pytest.mark.parametrize("target", ["file/out", "file/deep/out", "/proc/out", "/proc/deep/out", "x" * 300])
@pytest.mark.parametrize("check", [check_file, lambda target: check_folder(target, is_ours)], ids=["file", "folder"])
def test_place_that_cannot_be_written_to_is_found_before_the_work(tmp_path, target, check):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot be written: .*; give a place that you may write to"):
        check(tmp_path / target)
    assert names(tmp_path) == ["file"]


def test_mount_point_is_found_before_the_work():
    with pytest.raises(StorageError, match="/proc is a mount point, which cannot be replaced"):
        check_folder(Path("/proc"), lambda folder: True)


def test_trying_leaves_no_trace(tmp_path):
    check_file(tmp_path / "deep" / "file")
    check_folder(tmp_path / "deep" / "folder", is_ours)
    check_file(Path("/dev/stdout"))
    assert names(tmp_path) == []


KILLED = (
    "import os, signal, sys; from pathlib import Path; from saccade_ros import storage\n"
    "def kill(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
    "if sys.argv[2] == 'moving': storage._sync = kill\n"
    "whole = {'path': storage.whole_path, 'folder': lambda p: storage.whole_folder(p, bool)}[sys.argv[3]]\n"
    "with whole(Path(sys.argv[1])) as path:\n"
    "    (path / 'half' if path.is_dir() else path).write_text('half')\n"
    "    if sys.argv[2] == 'writing': kill()\n"
)


@pytest.mark.parametrize("moment", ["writing", "moving"])
@pytest.mark.parametrize("way", ["path", "folder"])
def test_killed_while_nothing_appears_and_the_next_write_cleans_up(tmp_path, moment, way):
    target = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(target), moment, way]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (leftover,) = names(tmp_path)
    assert leftover.startswith(".out.partial-")
    write_file(target, "whole")
    assert names(tmp_path) == ["out"]


def test_leftovers_of_a_process_with_this_ones_id_go_and_those_of_a_living_one_stay(tmp_path):
    """In a container every process may be number 1."""
    for pid in (os.getpid(), os.getppid()):
        (tmp_path / f".out.partial-{pid}").mkdir()
    (tmp_path / ".out.partial-notes").mkdir()
    write_file(tmp_path / "out", "whole")
    assert names(tmp_path) == sorted([f".out.partial-{os.getppid()}", ".out.partial-notes", "out"])


def test_digest_of_a_folder_is_that_of_names_and_contents(tmp_path):
    for name, content in (("one", b"x"), ("same", b"x"), ("other", b"y")):
        write_file(tmp_path / name / "deep" / "file", content)
    one, same, other = (sha256_of(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other
    (tmp_path / "same" / "deep" / "file").rename(tmp_path / "same" / "file")
    assert sha256_of(tmp_path / "same") != one
    assert sha256_of(tmp_path / "one" / "deep" / "file") == hashlib.sha256(b"x").hexdigest()
