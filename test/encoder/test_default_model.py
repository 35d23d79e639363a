"""The default model ships, is found wherever the package is, and is what transformers makes of the same folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import oracle
import pytest
import torch
from reference_model import random_clip, relative_error
from transformers import VJEPA2Model

import saccade_ros
from saccade_ros import default_model
from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.weights import WeightsError, load_encoder

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "models" / "default"


def test_transformers_loads_every_tensor_and_agrees():
    model, told = VJEPA2Model.from_pretrained(FOLDER, dtype=torch.float32, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    window, clip = 3, random_clip(5)
    encoder = load_encoder("default", window, recompute=window).encoder
    ring = encoder.new_ring()
    with torch.no_grad():
        for n, tubelet in enumerate(clip):
            out = encoder.step([encoder.embed(tubelet)], [ring])[0]
            expected = oracle.clip_encoder(model.eval(), clip[max(0, n - window + 1) : n + 1])
            assert relative_error(out.tokens, expected) <= 1e-5


def test_default_model_is_the_default_and_counts_as_trained():
    assert EncoderConfig().model == default_model.NAME
    info = load_backend(EncoderConfig(), BackendConfig(threads=1)).info
    assert (info.weights, info.weights_random) == (default_model.SOURCE, False)
    assert info.encoder_id.startswith(f"{info.weights_sha256[:12]}-")
    assert default_model.V_JEPA_2 in default_model.advice(info.weights)


def test_only_the_default_model_is_advised_about():
    assert default_model.advice(f"{default_model.SOURCE}, causal adapter a.safetensors")
    assert not default_model.advice("checkpoint ./default")
    assert not default_model.advice("RANDOM weights, size tiny, seed 0")


def test_a_folder_of_the_same_name_is_reached_by_its_path_only(tmp_path, monkeypatch, checkpoint):
    (tmp_path / "default").symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    ours, theirs = load_encoder("default", 2), load_encoder("./default", 2)
    assert (ours.source, theirs.source) == (default_model.SOURCE, "checkpoint ./default")
    assert ours.sha256 != theirs.sha256
    assert ours.encoder.spec.name == "default"


def test_missing_weights_name_both_places_and_the_remedy(tmp_path, monkeypatch):
    places = (tmp_path / "inside", tmp_path / "beside")
    monkeypatch.setattr(default_model, "PLACES", places)
    with pytest.raises(WeightsError, match=rf"neither in {places[0]} nor in {places[1]}: install the whole package"):
        load_encoder("default", 2)


def test_it_is_small_and_in_half_precision():
    assert (FOLDER / "model.safetensors").stat().st_size <= 12_000_000
    assert json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["dtype"] == "float16"


def test_model_card_names_the_licences():
    assert "licence" in (FOLDER / "README.md").read_text(encoding="utf-8").lower()


def test_pip_installs_it_where_it_is_looked_for(tmp_path):
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    code = "from saccade_ros import default_model as d; print(d.locate('default'))"
    alone = {**os.environ, "PYTHONPATH": str(tmp_path)}
    asked = [sys.executable, "-c", code]
    found = subprocess.run(asked, cwd=tmp_path, env=alone, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(found) == tmp_path / "saccade_ros" / "models" / "default"
    assert {file.name for file in Path(found).iterdir()} >= {"config.json", "model.safetensors", "README.md"}


def test_colcon_installs_it_where_it_is_looked_for():
    installed = default_model.PLACES[0].relative_to(Path(saccade_ros.__file__).parent).parent
    rule = f"install(DIRECTORY models/default DESTINATION ${{python_dir}}/${{PROJECT_NAME}}/{installed})"
    assert rule in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
