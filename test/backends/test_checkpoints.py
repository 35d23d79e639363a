"""A checkpoint runs on ONNX Runtime and OpenVINO as it is: there it is the encoder of torch, by id and vectors."""

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import released_model
import torch
from reference_model import make_reference, random_clip

from saccade_ros.backends import BackendError, load_backend
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.adapter import Adapter, target_layers
from saccade_ros.encoder.tensors import WeightsError
from saccade_ros.encoder.weights import load_encoder

WINDOW = 3
OWN = (
    "backend",
    "choice",
    "together",
    "patch_scale",
    "cache_bytes",
)  # what EncoderInfo says of the runtime, or to rounding


def save_adapter(file: Path) -> str:
    loaded, tensors = load_encoder("tiny", WINDOW), {}
    for name, linear in target_layers(loaded.encoder).items():
        tensors[f"{name}.down"] = torch.randn(2, linear.in_features)
        tensors[f"{name}.up"] = torch.randn(linear.out_features, 2) * 0.1
    Adapter(loaded.sha256, 2, 2.0, tensors).save(file)
    return str(file)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Settings of models in every form that a checkpoint has, by name."""
    folder = tmp_path_factory.mktemp("models")
    reference = make_reference(depth=2)
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        copy.deepcopy(reference).to(dtype).save_pretrained(folder / name)
    reference.save_pretrained(folder / "parts", max_shard_size="1MB")
    reference.save_pretrained(folder / "mean")
    means = {"image_mean": [0.1, 0.5, 0.9], "image_std": [0.2, 0.3, 0.4]}
    (folder / "mean" / "video_preprocessor_config.json").write_text(json.dumps(means))
    torch.save(released_model.document(), folder / "vjepa2_1_small_128.pt")
    adapter = save_adapter(folder / "adapter.safetensors")
    found = {name: {"model": str(folder / name)} for name in ("fp32", "fp16", "bf16", "parts", "mean")}
    found |= {"default": {"model": "default"}, "random": {"model": "tiny", "seed": 3}}
    found |= {"released": {"model": str(folder / "vjepa2_1_small_128.pt")}}
    return found | {"adapter": {"model": "tiny", "adapter": adapter}}


def backend_of(settings, name, **others):
    return load_backend(EncoderConfig(**settings, window=WINDOW), BackendConfig(name=name, threads=1, **others))


def plan_of(count, tokens):
    """Tokens of a stream's tubelet: all at first and at every third, else as many as chance says."""
    rng = np.random.default_rng(count)
    return np.sort(rng.permutation(tokens)[: rng.integers(1, tokens)]) if count % 3 else None


NAMES = ["fp32", "fp16", "bf16", "parts", "mean", "default", "random", "released", "adapter"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_encoder_that_torch_has_step_by_step(models, name, runtime):
    """Dense and sparse, over more than two windows."""
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    torchs, ours = backend_of(models[name], "torch"), backend_of(models[name], runtime)
    said, here = ({k: v for k, v in asdict(b.info).items() if k not in OWN} for b in (torchs, ours))
    assert here == said
    assert ours.info.patch_scale == pytest.approx(torchs.info.patch_scale, rel=1e-5)  # torch sums it in fp32
    expected, actual = torchs.new_state(), ours.new_state()
    for count, pixels in enumerate(random_clip(2 * WINDOW + 2).numpy()):
        there, here = torchs.embed(pixels), ours.embed(pixels)
        assert np.abs(here.features - there.features).max() <= 1e-4 * np.abs(there.features).max()
        token_idx = plan_of(count, len(there.features))
        vector = expected.step(there.patches, token_idx)
        assert np.abs(actual.step(here.patches, token_idx) - vector).max() <= 1e-4 * np.abs(vector).max(), count


@pytest.mark.parametrize(
    "changes", [{"recompute": 2}, {"merge": 8}, {"area_grid": "2x2", "area_layers": 1}, {"pooling": "window"}]
)
def test_settings_of_the_step_are_those_of_torch(models, changes):
    settings = models["fp32"] | changes
    torchs, ours = backend_of(settings, "torch"), backend_of(settings, "onnxruntime")
    assert ours.info.encoder_id == torchs.info.encoder_id
    expected, actual = torchs.new_state(), ours.new_state()
    for pixels in random_clip(2 * WINDOW + 2).numpy():
        vector = expected.step(torchs.embed(pixels).patches)
        assert np.abs(actual.step(ours.embed(pixels).patches) - vector).max() <= 1e-4 * np.abs(vector).max()


def test_half_precision_is_close_and_has_an_id_of_its_own(models):
    half, whole = backend_of(models["fp32"], "onnxruntime", precision="fp16"), backend_of(models["fp32"], "onnxruntime")
    assert half.info.encoder_id == whole.info.encoder_id.replace("fp32", "fp16")
    pixels = random_clip(1).numpy()[0]
    vector = whole.new_state().step(whole.embed(pixels).patches)
    assert np.abs(half.new_state().step(half.embed(pixels).patches) - vector).max() <= 5e-3 * np.abs(vector).max()


@pytest.mark.parametrize(
    ("changes", "precision", "said"),
    [
        ({}, "int8", r"'int8': of a checkpoint onnxruntime computes fp32, fp16; .* \(saccade export\)"),
        ({}, "bf16", "'bf16': of a checkpoint onnxruntime computes fp32, fp16"),
        ({"pooling": "probe"}, "auto", "which only torch computes: set backend.name torch, or pooling"),
    ],
)
def test_what_it_does_not_compute_is_refused_with_the_remedy(models, changes, precision, said):
    with pytest.raises(BackendError, match=said):
        backend_of(models["fp32"] | changes, "onnxruntime", precision=precision)


def test_a_broken_checkpoint_is_refused_in_the_words_of_torch(models, tmp_path):
    reference = make_reference(depth=2)
    reference.encoder.layer[1].norm1.weight.data.zero_()
    reference.save_pretrained(tmp_path)
    said = []
    for name in ("torch", "onnxruntime"):
        with pytest.raises(WeightsError, match=r"tensor encoder\.layer\.1\.norm1\.weight is dead") as refused:
            backend_of({"model": str(tmp_path)}, name)
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_a_window_that_does_not_suit_the_model_is_refused(models):
    settings = EncoderConfig(**models["fp32"], window=17)
    for name in ("torch", "onnxruntime"):
        with pytest.raises(ValueError, match=r"window 17 is outside 1\.\.16"):
            load_backend(settings, BackendConfig(name=name, threads=1))
    with pytest.raises(WeightsError, match=r"encoder\.input_size is 256, but checkpoint .* takes 128 px"):
        load_backend(replace(settings, window=2, input_size=256), BackendConfig(name="onnxruntime"))
