"""Use of the machine: what /proc, nvidia-smi and sysfs say, sampled."""

import os
import subprocess
import sys

import pytest

from saccade_ros.measure.energy import find_meters
from saccade_ros.measure.usage import UsageSampler, read_gpu_megabytes, resident_mb


def test_process_is_sampled():
    busy = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        busy.stdout.readline()  # before that, the memory may be that of a process of which nothing is loaded yet
        sampler = UsageSampler(busy.pid)
        busy_until = os.times().elapsed + 0.5
        while os.times().elapsed < busy_until:
            pass
        usage = sampler.stop()
    finally:
        busy.kill()
        busy.communicate()
    assert 0 < usage.cpu_cores <= 1.1
    assert usage.rss_mb[0][1] > 1.0


def test_process_that_has_ended_leaves_no_samples():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    usage = UsageSampler(ended.pid).stop()
    assert (usage.cpu_cores, usage.rss_mb, usage.gpu_mb) == (0.0, (), ())


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_process_that_crashed_and_is_not_waited_for_leaves_no_samples():
    crashed = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    crashed.stdout.read()
    os.waitid(os.P_PID, crashed.pid, os.WEXITED | os.WNOWAIT)  # what is left of it stays until it is waited for
    usage = UsageSampler(crashed.pid).stop()
    crashed.communicate()
    assert (usage.rss_mb, usage.gpu_mb) == ((), ())


def test_resident_memory_is_read_in_mb():
    assert resident_mb("Name:\tpython\nVmRSS:\t  204800 kB\nThreads:\t9\n") == 200.0


def test_gpu_memory_is_summed_over_the_rows_of_the_process():
    assert read_gpu_megabytes("41, 512\n42, 100\n42, 20\n", 42) == 120.0
    assert read_gpu_megabytes("42, [N/A]\n", 42) is None
    assert read_gpu_megabytes("", 42) is None


@pytest.fixture
def sysfs(tmp_path):
    """A machine with a processor's two zones, of which one is within the other, and a channel of a Jetson's sensor."""
    files = {
        "class/powercap/intel-rapl:0/name": "package-0",
        "class/powercap/intel-rapl:0/energy_uj": 900,
        "class/powercap/intel-rapl:0/max_energy_range_uj": 999,
        "class/powercap/intel-rapl:0:0/name": "core",
        "class/powercap/intel-rapl:0:0/energy_uj": 1,
        "class/powercap/intel-rapl:0:0/max_energy_range_uj": 999,
        "class/powercap/intel-rapl:1/name": "psys",  # its counter is for root alone
        "bus/i2c/devices/1-0040/hwmon/hwmon3/in1_label": "VDD_IN",
        "bus/i2c/devices/1-0040/hwmon/hwmon3/in1_input": 5000,
        "bus/i2c/devices/1-0040/hwmon/hwmon3/curr1_input": 2000,
        "bus/i2c/devices/1-0040/hwmon/hwmon3/in7_label": "sum of shunt voltages",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    return tmp_path


def test_energy_is_read_where_the_machine_tells_it(sysfs):
    rapl, ina = find_meters(sysfs)
    assert (rapl.name, ina.name) == ("rapl:package-0", "ina:VDD_IN")
    (sysfs / "class/powercap/intel-rapl:0/energy_uj").write_text("100\n")  # it has wrapped around
    rapl.read()
    assert rapl.joules == pytest.approx(200e-6)
    started_s = ina._last[0]
    ina.read()
    assert ina.joules == pytest.approx(10.0 * (ina._last[0] - started_s))


def test_machine_without_meters_has_none(tmp_path):
    assert find_meters(tmp_path) == []
