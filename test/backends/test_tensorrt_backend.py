"""The TensorRT backend's host side on a stand-in for the driver: its GPU memory is this process's, and ONNX Runtime
computes the engine's graph. What only a GPU can tell is in test/export/test_tensorrt.py."""

# ruff: noqa: N802, N815  # the CUDA runtime has its own names

import copy
import ctypes
import gc
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from contracts import require_kernels
from reference_model import random_clip

from saccade_ros.backends.base import token_buckets
from saccade_ros.backends.cuda_runtime import Cuda
from saccade_ros.backends.manifest import ManifestError
from saccade_ros.backends.tensorrt_backend import TensorRtState
from saccade_ros.backends.tensorrt_engine import Engine
from saccade_ros.backends.window import WindowTables
from saccade_ros.config import EncoderConfig
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.export.graph import build_step, step_shape

INPUT, OUTPUT = "input", "output"


class Driver:
    """cuda.bindings.runtime as far as it is used. `held` is what was taken and not given back."""

    cudaMemcpyKind = SimpleNamespace(
        **{f"cudaMemcpy{way}": way for way in ("HostToDevice", "DeviceToHost", "DeviceToDevice")}
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self):
        self.held, self._names, self._recorded = {}, itertools.count(1), None

    def __getattr__(self, call):
        """All that gives back: cudaFree(address), cudaGraphDestroy(graph), ..."""
        if "Free" not in call and "Destroy" not in call:
            raise AttributeError(call)
        return lambda name: (self.held.pop(name) and 0,)

    def _hold(self, thing, name=None):
        name = next(self._names) if name is None else name
        self.held[name] = thing
        return 0, name

    def cudaMalloc(self, nbytes):
        memory = (ctypes.c_byte * nbytes)()
        return self._hold(memory, ctypes.addressof(memory))

    def cudaHostAlloc(self, nbytes, flags):
        return self.cudaMalloc(nbytes)

    def cudaStreamCreate(self):
        return self._hold("stream")

    def cudaStreamSynchronize(self, stream):
        return (0,)

    def enqueue(self, work):
        """Now, or in each launch of the graph that is being captured."""
        work() if self._recorded is None else self._recorded.append(work)
        return (0,)

    def cudaMemcpyAsync(self, target, source, nbytes, kind, stream):
        return self.enqueue(lambda: ctypes.memmove(target, source, nbytes))

    def cudaMemcpy2DAsync(self, target, pitch, source, source_pitch, width, rows, kind, stream):
        def copy():
            for row in range(rows):
                ctypes.memmove(target + row * pitch, source + row * source_pitch, width)

        return self.enqueue(copy)

    def cudaStreamBeginCapture(self, stream, mode):
        self._recorded = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        recorded, self._recorded = self._recorded, None
        return self._hold(recorded)

    def cudaGraphInstantiate(self, graph, flags):
        return self._hold(list(self.held[graph]))

    def cudaGraphLaunch(self, graph, stream):
        for work in self.held[graph]:
            work()
        return (0,)


class OrtEngine:
    """An ICudaEngine and its contexts in one: a step's ONNX graph on memory that it is told the addresses of."""

    def __init__(self, data, driver):
        self._session, self._driver = ort.InferenceSession(data), driver
        self._tensors = {t.name: (INPUT, t) for t in self._session.get_inputs()}
        self._tensors |= {t.name: (OUTPUT, t) for t in self._session.get_outputs()}
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, i):
        return list(self._tensors)[i]

    def get_tensor_mode(self, name):
        return self._tensors[name][0]

    def get_tensor_shape(self, name):
        """As TensorRT says it: -1 for what is open."""
        return [-1 if size == "M" else size for size in self._tensors[name][1].shape]

    def get_tensor_dtype(self, name):
        return np.dtype(np.int64 if self._tensors[name][1].type == "tensor(int64)" else np.float32)

    def create_execution_context(self):
        """Have addresses and open sizes of its own, as each context has."""
        context = copy.copy(self)
        context._addresses, context._rows = {}, 0
        return context

    def set_optimization_profile_async(self, profile, stream):
        self._rows = token_buckets(64)[profile]
        return True

    def set_input_shape(self, name, shape):
        """A size that the profile does not have is refused."""
        assert list(shape) == [self._rows if size == -1 else size for size in self.get_tensor_shape(name)]
        return True

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        self._driver.enqueue(self._run)
        return True

    def _run(self):
        inputs = {n: self._array(n).copy() for n, (mode, _) in self._tensors.items() if mode == INPUT}
        names = [n for n, (mode, _) in self._tensors.items() if mode == OUTPUT]
        for name, value in zip(names, self._session.run(names, inputs), strict=True):
            self._array(name)[...] = value

    def _array(self, name):
        dtype = self.get_tensor_dtype(name)
        shape = [self._rows if size == -1 else size for size in self.get_tensor_shape(name)]
        data = (ctypes.c_byte * (int(np.prod(shape)) * dtype.itemsize)).from_address(self._addresses[name])
        return np.frombuffer(data, dtype).reshape(shape)


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(Cuda, "load", staticmethod(lambda: driver))
    return driver


def new_state(driver, tmp_path, encoder, contract, shape=None, said=None):
    """A stream on stand-in engines of the encoder's dense and sparse steps; `shape` and `said` are the manifest's."""
    require_kernels(contract)  # the stand-in is ONNX Runtime
    kinds = ["dense", "sparse"] if step_shape(encoder).can_be_sparse else ["dense"]
    for steps in kinds:
        (tmp_path / steps).write_bytes(build_step(encoder, 1, contract, steps=steps).whole().SerializeToString())
    trt = SimpleNamespace(
        __version__="10.3",
        TensorIOMode=SimpleNamespace(INPUT=INPUT),
        Logger=type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None}),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: OrtEngine(data, driver)),
        nptype=lambda dtype: dtype,
    )
    cuda, shape = Cuda(), shape or step_shape(encoder)
    engines = [Engine(trt, tmp_path / steps, cuda) for steps in kinds]
    return TensorRtState(engines, shape, WindowTables(shape), EncoderConfig(window=4), said or contract)


@pytest.mark.parametrize(
    ("contract", "recompute", "merge"),
    [("scatter", 1, 0), ("host", 1, 0), ("host", 3, 0), ("scatter", 1, 8), ("host", 1, 8)],
)
def test_ring_on_the_device_is_torchs_over_a_whole_stream(driver, tmp_path, contract, recompute, merge):
    encoder = load_encoder("tiny", 4, recompute, merge=merge).encoder
    state, ring = new_state(driver, tmp_path, encoder, contract), encoder.new_ring()
    for n, tubelet in enumerate(random_clip(14)):
        if n == 9:
            state.reset()
            ring.reset()
        patches = encoder.embed(tubelet)
        state.peek(np.zeros_like(patches.numpy()))
        expected = encoder.step([patches], [ring])[0].newest.numpy()
        assert np.abs(state.step(patches.numpy()) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("contract", ["scatter", "host"])
def test_sparse_steps_of_each_size_go_on_in_the_same_ring(driver, tmp_path, contract):
    """Dense and sparse engines take turns; each size is captured once and replayed."""
    encoder = load_encoder("tiny", 3).encoder
    state, ring = new_state(driver, tmp_path, encoder, contract), encoder.new_ring()
    rng, sizes = np.random.default_rng(0), token_buckets(encoder.spec.tokens)
    for n, tubelet in enumerate(random_clip(14)):
        patches, size = encoder.embed(tubelet), sizes[n % 4]
        token_idx = np.sort(rng.permutation(encoder.spec.tokens)[:size]) if n and n % 5 else None
        expected = encoder.step([patches], [ring], [token_idx])[0].tokens.numpy()
        state.step(patches.numpy(), token_idx)
        assert np.abs(state.tokens - expected).max() <= 1e-4 * np.abs(expected).max(), n
    with pytest.raises(ValueError, match="3 tokens are to be computed: these engines compute 8, 16, 32, 64"):
        state.step(patches.numpy(), np.arange(3))


@pytest.mark.parametrize(
    ("changes", "said", "found"),
    [
        ({"window": 5}, None, r"input keys_0 is \[1, 3, 256, 88\], its manifest says \[1, 3, 320, 88\]"),
        ({"batch": 2}, None, r"input patches is \[1, 64, 192\], its manifest says \[2, 64, 192\]"),
        ({}, "host", r"output keys_out_0 is \[1, 3, 256, 88\], its manifest says None"),
    ],
)
def test_engine_of_another_step_than_the_manifests_is_refused(driver, tmp_path, changes, said, found):
    encoder = load_encoder("tiny", 4).encoder
    with pytest.raises(ManifestError, match=rf"dense: its graph's {found}"):
        new_state(driver, tmp_path, encoder, "scatter", replace(step_shape(encoder), **changes), said)


def test_a_stream_gives_back_all_that_it_took(driver, tmp_path):
    """GPU and page-locked memory is nobody's garbage to collect; a node may be configured again and again."""
    encoder = load_encoder("tiny", 4).encoder
    state = new_state(driver, tmp_path, encoder, "host")
    for tubelet in random_clip(3):
        state.step(encoder.embed(tubelet).numpy())
    assert len(driver.held) > 2 * encoder.spec.depth
    del state
    gc.collect()
    assert not driver.held
