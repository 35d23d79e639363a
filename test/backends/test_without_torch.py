"""Exports and checkpoints run where neither torch nor transformers can be imported, from import to embedding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clips import write_video
from reference_model import make_reference

from saccade_ros.export.exporter import export
from saccade_ros.export.options import ExportOptions
from saccade_ros.measure.progress import silent

TORCH = ("torch", "transformers", "torchao", "huggingface_hub")
ABSENT = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
RUN = """
import numpy as np
from saccade_ros.backends import BackendError
from saccade_ros.config import BackendConfig, Config, EncoderConfig, StreamConfig
from saccade_ros.frames import Frame
from saccade_ros.pipeline import Pipeline

def config(model):
    return Config(StreamConfig(fps=0.0), encoder=EncoderConfig(model=model, window=3), backend=BackendConfig(threads=1))

pipeline = Pipeline(config(sys.argv[2]))
pipeline.warm_up()
stream = pipeline.open_stream()
rng = np.random.default_rng(0)
pictures = [rng.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(10)]
results = [r for i, p in enumerate(pictures) if (r := stream.push(Frame(p, 10**9 + i * 40_000_000)))]
said = {}
for model in sys.argv[3:]:
    try:
        Pipeline(config(model))
    except BackendError as refused:
        said[model] = str(refused)
print(json.dumps({"vectors": [r.vector.tolist() for r in results], "said": said, "loaded": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    clip = write_video(folder / "clip.mp4", frames=80)
    options = ExportOptions("tiny", folder / "tiny", str(clip), precisions=("fp32",), window=3, tubelets=4, threads=1)
    return export(options, silent).folder


def run(code, *arguments, absent=TORCH):
    """Run in a process that cannot import some packages; return the last line that it prints."""
    command = [sys.executable, "-c", ABSENT + code, ",".join(absent), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout.strip().splitlines()[-1]


def test_pipeline_encodes_an_export_with_neither_torch_nor_transformers(exported):
    answer = json.loads(run(RUN, exported, "tiny", absent=(*TORCH, "safetensors", "onnx")))
    assert [len(vector) for vector in answer["vectors"]] == [192] * 5
    assert not {"torch", "transformers", "onnx"} & set(answer["loaded"])
    assert "of which onnx makes a graph, and it is not installed: pip install" in answer["said"]["tiny"]


def test_pipeline_encodes_a_checkpoint_with_neither(tmp_path):
    reference = make_reference(depth=1).to(torch.bfloat16)
    reference.save_pretrained(tmp_path / "bf16")
    answer = json.loads(run(RUN, tmp_path / "bf16", "tiny", "of.pt"))
    assert [len(vector) for vector in answer["vectors"]] == [192] * 5
    assert not {"torch", "transformers"} & set(answer["loaded"])
    for model, said in answer["said"].items():
        assert f"encoder.model '{model}' is loaded by torch, which is not installed" in said
    assert set(answer["said"]) == {"tiny", "of.pt"}


def test_a_clip_is_replayed_by_the_default_model_without_torch(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames=40)
    code = "from saccade_ros.cli import main; main(sys.argv[2:]); print('torch' in sys.modules)"
    assert run(code, "replay", clip, "--out", tmp_path / "report") == "False"
    assert any((tmp_path / "report").iterdir())


def test_the_onnx_extra_names_nothing_that_brings_torch():
    setup = (Path(__file__).parents[2] / "setup.py").read_text(encoding="utf-8")
    extra = next(line for line in setup.splitlines() if '"onnx": [' in line)
    assert "torch" not in extra
