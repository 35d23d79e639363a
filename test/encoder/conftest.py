"""A random V-JEPA 2 saved in transformers' own format, and the same one loaded by us; our kernels, on any processor."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_model import make_reference
from transformers import VJEPA2Model

import saccade_ros
from saccade_ros.encoder import amx
from saccade_ros.encoder.weights import load_encoder

EMULATED = Path(__file__).parent / "emulated"  # its immintrin.h takes the place of the compiler's
SOURCES = Path(saccade_ros.__file__).parent / "encoder" / "native"


@pytest.fixture(scope="session")
def reference() -> VJEPA2Model:
    return make_reference()


@pytest.fixture(scope="session")
def checkpoint(reference: VJEPA2Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture(params=["chosen kernels", "torch's kernels"])
def load(checkpoint: Path, request: pytest.FixtureRequest):
    """Load the checkpoint with a window and a recompute, on the CPU in fp32: with what is fastest here, and without."""
    if request.param == "torch's kernels":
        request.getfixturevalue("torch_kernels")

    def load_with(window: int, recompute: int = 1):
        return load_encoder(str(checkpoint), window, recompute).encoder.prepare(torch.device("cpu"), torch.float32)

    return load_with


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our kernels, compiled with plain C++ in place of the instructions that few processors have."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++ to build the kernels with emulated instructions")
    built = tmp_path_factory.mktemp("emulated") / "libsaccade_native.so"
    options = ["-std=c++17", "-O2", "-march=native", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi", "-Wno-attributes"]
    sources = [SOURCES / f"{name}.cpp" for name in ("attention", "linear", "norm")]
    subprocess.run(["g++", *options, f"-I{EMULATED}", *sources, "-o", built], check=True)
    return amx._declared(ctypes.CDLL(str(built)))


@pytest.fixture(
    params=[
        pytest.param(
            "processor",
            marks=pytest.mark.skipif(
                not amx.amx_available(), reason="needs a processor with AMX and the kernels colcon builds"
            ),
        ),
        "emulated",
    ]
)
def amx_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our kernels on AMX, and, as a check that runs everywhere, the same code on emulated instructions."""
    if request.param == "emulated":
        loaded = request.getfixturevalue("emulated_library")
        monkeypatch.setattr(amx, "library", lambda: loaded)
