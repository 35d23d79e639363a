"""The end of a process that does not come to its own: real processes, without ROS."""

import os
import signal
import subprocess
import sys

import pytest

from saccade_ros.nodes.stopping import GRACE_S

ATTENDING = "import sys; from saccade_ros.nodes.stopping import StopSignals; StopSignals()"
STUCK = {
    "in a call": "import ctypes; ctypes.CDLL(None).sleep(600)",
    "writing to a reader that reads no more": "sys.stdout.write('x' * 10**7)",
}


def test_end_is_forced_early_enough_for_the_two_seconds_promised():
    assert GRACE_S <= 1.0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda how: how.name)
@pytest.mark.parametrize("doing", STUCK)
def test_process_whose_main_thread_is_stuck_ends_with_status_0(doing, how):
    code = f"{ATTENDING}; print('ready', flush=True); {STUCK[doing]}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(how)
        process.send_signal(how)
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("redirection", [">&-", "2>&- >&-", "> /dev/full", "| true"])
def test_process_ends_with_its_status_whatever_becomes_of_its_output(redirection):
    code = "from saccade_ros.nodes.stopping import end_process; print(end=1000 * 'x'); end_process(3)"
    line = f'set -o pipefail; {sys.executable} -c "{code}" {redirection}'
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    assert subprocess.run(["bash", "-c", line], env=buffered, check=False).returncode == 3


def test_attending_to_signals_imports_nothing_that_takes_long():
    code = "import sys, saccade_ros.nodes.entry; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"rclpy", "numpy", "saccade_ros.config"} & set(loaded)
