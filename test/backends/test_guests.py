"""What runs in somebody's process leaves it as it was: arithmetic, threads, files."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

GRAPH = """
import numpy as np
from onnx import TensorProto, helper
from pathlib import Path

def tensor(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64])

def make_graph(file):
    weight = helper.make_tensor("b", TensorProto.FLOAT, [64, 64], (np.eye(64, dtype=np.float32) * 1e-20).ravel())
    product = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([product], "g", [tensor("a")], [tensor("c")], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    Path(file).write_bytes(model.SerializeToString())
"""
OPEN = f"""{GRAPH}
import sys
from saccade_ros.backends.onnx_backend import open_session
from saccade_ros.config import BackendConfig
make_graph(sys.argv[1])
session = open_session(Path(sys.argv[1]), BackendConfig(threads=1), "cpu")
def flushes():
    return bool((np.full(64, 1e-40, np.float32) * np.float32(1.0) == 0).all())
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    """In a process of its own: ONNX Runtime treats the first session of one differently."""
    command = [sys.executable, "-c", code, *arguments]
    known = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=known | environment).stdout.strip()


def test_denormals_are_flushed_while_a_graph_runs_and_only_then(tmp_path):
    """On whichever thread it runs: the node opens its session on one, and steps on another."""
    code = f"""{OPEN}
import threading
from saccade_ros.backends.denormals import denormals_as_zero
tiny = np.full((64, 64), 1e-20, np.float32)
def step():
    with denormals_as_zero():
        inside = flushes(), bool(session.run(None, dict(a=tiny))[0].any())
    print(*inside, flushes())
print(flushes())
step()
thread = threading.Thread(target=step); thread.start(); thread.join()
"""
    assert run(code, str(tmp_path / "g.onnx")).split() == ["False", *["True", "False", "False"] * 2]


def test_one_who_flushes_denormals_goes_on_to():
    torch = pytest.importorskip("torch")
    from saccade_ros.backends.denormals import denormals_as_zero

    def flushes() -> bool:
        return bool((np.full(64, 1e-40, np.float32) * np.float32(1.0) == 0).all())

    torch.set_flush_denormal(True)
    try:
        with denormals_as_zero():
            assert flushes()
        assert flushes()
    finally:
        torch.set_flush_denormal(False)
    with pytest.raises(ZeroDivisionError), denormals_as_zero():
        raise ZeroDivisionError
    assert not flushes()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_no_runtime_leaves_denormals_flushed(runtime):
    """Neither in the thread that loads and steps, nor in one that steps only."""
    pytest.importorskip(runtime)
    code = f"""
import sys, threading
import numpy as np
from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, EncoderConfig
def flushes():
    return bool((np.full(64, 1e-40, np.float32) * np.float32(1.0) == 0).all())
def step():
    state, pixels = backend.new_state(), np.zeros((2, 3, 128, 128), np.float32)
    state.step(backend.embed(pixels).patches)
    print(flushes())
backend = load_backend(EncoderConfig(window=2), BackendConfig(name={runtime!r}, threads=1))
print(flushes())
step()
thread = threading.Thread(target=step); thread.start(); thread.join()
"""
    assert run(code).split() == ["False"] * 3


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_signals_are_handled_when_no_backend_is_left(runtime):
    """The handlers' stack is there, too, whichever backend was freed first."""
    pytest.importorskip(runtime)
    code = f"""
import gc, signal
from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, EncoderConfig
signal.signal(signal.SIGALRM, lambda number, frame: print(signal.Signals(number).name))
first, second = (load_backend(EncoderConfig(window=2), BackendConfig(name={runtime!r}, threads=1)) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGALRM)
"""
    assert run(code) == "SIGALRM"


@pytest.mark.parametrize("how", ["opens a session", "imports the command line"])
def test_onnx_runtime_writes_nothing_about_its_user(tmp_path, how):
    """Its telemetry leaves an id of the device and a database in the home folder, sent or not."""
    code = OPEN if how == "opens a session" else "import saccade_ros.cli, onnxruntime; onnxruntime.SessionOptions()"
    run(code, str(tmp_path / "g.onnx"), HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert [path for path in tmp_path.rglob("*") if "onnxruntime" in str(path.relative_to(tmp_path)).lower()] == []


@pytest.mark.parametrize("counts", [(1, 2), (2, 1), (3, 0)])
def test_threads_are_each_engine_s_own_and_the_caller_keeps_its(counts):
    torch = pytest.importorskip("torch")
    from saccade_ros.backends.torch_backend import TorchBackend
    from saccade_ros.config import BackendConfig, EncoderConfig

    seen: list[int] = []
    before = torch.get_num_threads()
    engines = [TorchBackend(EncoderConfig(model="tiny", window=2), BackendConfig(threads=n)) for n in counts]
    expected = [count or before for count in counts]
    assert [engine.info.threads for engine in engines] == expected
    for engine in engines:
        engine._encoder.layers[0].norm1.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    states = [engine.new_state() for engine in engines]
    pixels = np.zeros(engines[0].spec.pixels_shape, np.float32)

    def step_all() -> None:
        for engine, state in zip(engines, states, strict=True):
            state.step(engine.embed(pixels).patches)

    thread = threading.Thread(target=step_all)
    thread.start()
    thread.join()
    step_all()
    assert seen == expected * 2
    assert torch.get_num_threads() == before
