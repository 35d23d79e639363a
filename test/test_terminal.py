"""Printing never turns success into failure, and signals end a command tidily."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PRINTS = """
from rich.console import Console
from saccade_ros.terminal import forgiving_output
with forgiving_output():
    for i in range(3000):
        print(f"✓ {i} – grün, 日本")
    Console().print("[bold]▶ done[/bold]")
open("DONE", "w").close()
"""


@pytest.mark.parametrize(
    "redirection", ["", "> /dev/full", ">&-", "| head -1", "2>&- >&-", "| true"], ids=lambda r: r.strip() or "file"
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_printing_cannot_fail(tmp_path, redirection, encoding):
    done = tmp_path / "done"
    (tmp_path / "prints.py").write_text(PRINTS.replace("DONE", str(done)), encoding="utf-8")
    line = f"set -o pipefail; PYTHONIOENCODING={encoding} {sys.executable} {tmp_path}/prints.py {redirection}"
    ran = subprocess.run(["bash", "-c", line], capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert done.exists()


def test_data_that_does_not_arrive_is_a_failure():
    code = "from saccade_ros.terminal import forgiving_output, print_whole\nwith forgiving_output(): print_whole('{}')"
    with open("/dev/full", "w") as full:
        ran = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False)
    assert ran.returncode != 0
    assert b"No space left" in ran.stderr


WORKS = """
import sys, time
from pathlib import Path
from saccade_ros.storage import whole_folder
from saccade_ros.terminal import EndedBySignal, ended_by_signals
try:
    with ended_by_signals(), whole_folder(Path(sys.argv[1]), bool) as folder:
        (folder / "half").touch()
        print("begun", flush=True)
        time.sleep(60)
except EndedBySignal as ended:
    sys.exit(ended.status)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_tidily_and_a_second_one_is_harmless(tmp_path, number):
    process = subprocess.Popen([sys.executable, "-c", WORKS, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.005)
    assert process.wait(timeout=10) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_signal_that_is_ignored_stays_so(tmp_path):
    """As under nohup."""
    (tmp_path / "works.py").write_text(WORKS.replace("60", "0.5"))
    command = ["bash", "-c", f"trap '' HUP; exec {sys.executable} {tmp_path / 'works.py'} {tmp_path / 'out'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=10) == 0
    assert [path.name for path in Path(tmp_path / "out").iterdir()] == ["half"]


WAITED = """
import os, signal, sys
from saccade_ros.terminal import EndedBySignal, ended_by_signals
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
if sys.argv[1] == "before":
    os.kill(os.getpid(), signal.SIGTERM)
try:
    with ended_by_signals():
        print("not ended", flush=True)
except EndedBySignal as ended:
    sys.exit(ended.status)
os.kill(os.getpid(), signal.SIGTERM)
print("done")
"""


@pytest.mark.parametrize(("when", "status", "printed"), [("before", 143, ""), ("after", 0, "not ended\ndone\n")])
def test_blocked_signal_waits_for_the_block_and_later_ones_change_nothing(when, status, printed):
    ran = subprocess.run([sys.executable, "-c", WAITED, when], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, printed, "")
