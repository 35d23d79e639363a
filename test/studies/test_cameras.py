"""The study of several cameras: what it times, and the cores that it finds busy."""

import json
import os
import subprocess
import sys

import pytest

from saccade_ros.config import BackendConfig, Config, EncoderConfig
from saccade_ros.measure.progress import silent
from saccade_ros.studies.cameras import Options, run, table

TINY = Config(encoder=EncoderConfig(model="tiny", window=2), backend=BackendConfig(threads=1))


def test_steps_are_timed_in_turn_and_as_one():
    record = run(Options(cameras=(1, 2), shares=(1.0, 0.25), rounds=1, config=TINY), silent)
    found = [(row["share"], row["cameras"], row["how"]) for row in record["steps"]]
    cases = [(1, "in turn"), (2, "in turn"), (2, "as one")]
    assert found == [(share, *case) for share in (1.0, 0.25) for case in cases]
    json.dumps(record, allow_nan=False)
    one, two = (line.split() for line in table(record).splitlines()[2:4])
    assert (one[:2], len(one)) == (["100%", "1"], 3), "one camera has nobody to be stepped with"
    assert (two[:2], len(two)) == (["100%", "2"], 5)


def test_a_runtime_that_steps_in_turn_only_is_timed_so():
    for package in ("openvino", "onnx"):
        pytest.importorskip(package, reason=f"needs {package}; `make test` brings it")
    config = Config(encoder=EncoderConfig(window=2), backend=BackendConfig(name="openvino", threads=1))
    record = run(Options(cameras=(2,), shares=(1.0,), rounds=1, config=config), silent)
    assert [row["how"] for row in record["steps"]] == ["in turn"]
    assert record["together"] == 1


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_one_thread_keeps_one_core_busy(runtime, exported):
    """Processor time over wall time, in a process of its own, where nothing but backend.threads limits it."""
    model = {"torch": "vits", "onnxruntime": exported}[runtime]
    settings = [f"encoder.model={model}", "encoder.window=2", "backend.threads=1"]
    given = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "saccade_ros.cli", "bench", "cameras", "--rounds", "4", "--json", "-", *given]
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=free)
    assert json.loads(done.stdout)["cores"] <= 1.1
