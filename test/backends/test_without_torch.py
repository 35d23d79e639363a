"""An export runs where neither torch nor transformers can be imported, from the node's import path to an embedding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saccade_ros.export.exporter import export
from saccade_ros.export.options import ExportOptions
from saccade_ros.measure.progress import silent

RUN = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors", "huggingface_hub", "onnx", "torchao"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
from saccade_ros.backends import BackendError
from saccade_ros.config import BackendConfig, Config, EncoderConfig, StreamConfig
from saccade_ros.frames import Frame
from saccade_ros.pipeline import Pipeline

def config(model):
    return Config(StreamConfig(fps=0.0), encoder=EncoderConfig(model=model, window=3), backend=BackendConfig(threads=1))

pipeline = Pipeline(config(sys.argv[1]))
pipeline.warm_up()
stream = pipeline.open_stream()
rng = np.random.default_rng(0)
pictures = [rng.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(10)]
results = [r for i, p in enumerate(pictures) if (r := stream.push(Frame(p, 10**9 + i * 40_000_000)))]
try:
    Pipeline(config("tiny"))
except BackendError as refused:
    said = str(refused)
print(json.dumps({"vectors": [r.vector.tolist() for r in results], "said": said, "loaded": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    from clips import write_video

    folder = tmp_path_factory.mktemp("export")
    clip = write_video(folder / "clip.mp4", frames=80)
    options = ExportOptions("tiny", folder / "tiny", str(clip), precisions=("fp32",), window=3, tubelets=4, threads=1)
    return export(options, silent).folder


def test_pipeline_encodes_with_neither_torch_nor_transformers(exported):
    command = [sys.executable, "-c", RUN, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    answer = json.loads(done.stdout)
    assert [len(vector) for vector in answer["vectors"]] == [192] * 5
    assert not {"torch", "transformers", "onnx"} & set(answer["loaded"])
    assert "torch is not installed: see 'Install on a robot'" in answer["said"]


def test_the_onnx_extra_names_nothing_that_brings_torch():
    setup = (Path(__file__).parents[2] / "setup.py").read_text(encoding="utf-8")
    extra = next(line for line in setup.splitlines() if '"onnx": [' in line)
    assert "torch" not in extra
