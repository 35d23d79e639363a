"""One encoder_id stands for vectors that compare: it is made of what changes them, and of nothing else."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VJEPA2Config, VJEPA2ForVideoClassification

from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, Config, EncoderConfig, GateConfig, VisionConfig
from saccade_ros.encoder.adapter import Adapter, target_layers
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.heads import HeadError, LinearHead
from saccade_ros.knobs import ConfigError
from saccade_ros.pipeline import Pipeline

TINY = EncoderConfig(model="tiny", window=3)
FP32 = BackendConfig(threads=1, device="cpu")


def identity(encoder: EncoderConfig = TINY, backend: BackendConfig = FP32, fit: str = "crop") -> str:
    return load_backend(encoder, backend, fit).info.encoder_id


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 1, "crop_size": 32, "patch_size": 8}
    others = {
        "pred_hidden_size": 12,
        "pred_num_hidden_layers": 1,
        "pred_num_attention_heads": 1,
        "num_pooler_layers": 1,
    }
    folder = tmp_path_factory.mktemp("model") / "classifier"
    VJEPA2ForVideoClassification(VJEPA2Config(**sizes, **others)).save_pretrained(folder)
    return folder


def test_the_id_says_what_it_is_made_of():
    settings = replace(TINY, recompute=2, pooling="window", normalize=True, area_grid="2x2", area_layers=1)
    info = load_backend(settings, FP32, "stretch").info
    weights, *parts = info.encoder_id.split(":")
    assert weights.startswith(f"random-{info.weights_sha256[:12]}-")
    assert parts == ["fp32", "128px-stretch", "window3", "recompute2", "window", "unit", "areas-2x2-1"]


def test_a_copy_and_a_link_in_other_folders_have_the_same_id(classifier, tmp_path):
    shutil.copytree(classifier, tmp_path / "another name")
    (tmp_path / "link").symlink_to(classifier)
    ids = {
        identity(EncoderConfig(model=str(f), window=2))
        for f in (classifier, tmp_path / "another name", tmp_path / "link")
    }
    assert len(ids) == 1


def test_every_setting_that_changes_vectors_changes_the_id(classifier):
    changes = [
        {},
        {"window": 2},
        {"recompute": 2},
        {"pooling": "window"},
        {"normalize": True},
        {"merge": 4},
        {"seed": 1},
    ]
    changes += [{"area_grid": "2x2", "area_layers": 1}, {"area_grid": "2x2", "area_layers": 2}]
    ids = [identity(replace(TINY, **change)) for change in changes]
    ids += [identity(fit="stretch"), identity(backend=replace(FP32, precision="bf16"))]
    ids += [identity(backend=replace(FP32, precision="int8"))]
    of_classifier = EncoderConfig(model=str(classifier), window=3)
    ids += [identity(of_classifier), identity(replace(of_classifier, pooling="probe"))]
    assert len(set(ids)) == len(ids)


def test_settings_that_change_no_vector_do_not_change_it():
    same = [identity(), identity(replace(TINY, area_grid="2x2")), identity(replace(TINY, area_layers=2))]
    same += [identity(backend=replace(FP32, threads=2)), identity(backend=replace(FP32, precision="fp32"))]
    assert len(set(same)) == 1


def test_an_adapter_changes_it_and_a_copy_of_the_adapter_does_not(tmp_path):
    loaded = load_encoder("tiny", 3)
    tensors = {}
    for name, linear in target_layers(loaded.encoder).items():
        tensors[f"{name}.down"], tensors[f"{name}.up"] = (
            torch.ones(1, linear.in_features),
            torch.ones(linear.out_features, 1),
        )
    for name in ("one", "other"):
        Adapter(loaded.sha256, 1, 0.01, tensors).save(tmp_path / name)
    one, other = (identity(replace(TINY, adapter=str(tmp_path / name))) for name in ("one", "other"))
    assert one == other != identity()


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("1e-06", "1e-05")),
        lambda f: (f / "config.json").write_text(
            (f / "config.json").read_text().replace('"num_attention_heads": 1', '"num_attention_heads": 2', 1)
        ),
        lambda f: (f / "video_preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}'),
    ],
    ids=["norm epsilon", "heads", "input mean"],
)
def test_same_weights_computed_in_another_way_have_another_id(classifier, tmp_path, change):
    copied = Path(shutil.copytree(classifier, tmp_path / "copy"))
    before = identity(EncoderConfig(model=str(copied), window=2))
    change(copied)
    assert identity(EncoderConfig(model=str(copied), window=2)) != before


def test_another_probe_on_the_same_encoder_has_another_id(classifier, tmp_path):
    from safetensors.torch import load_file, save_file

    copied = Path(shutil.copytree(classifier, tmp_path / "copy"))
    probed = EncoderConfig(model=str(copied), window=2, pooling="probe")
    before, plain = identity(probed), identity(replace(probed, pooling="newest"))
    tensors = load_file(copied / "model.safetensors")
    tensors["classifier.weight"] += 1
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    assert identity(probed) != before
    assert identity(replace(probed, pooling="newest")) == plain


def test_calibration_and_head_of_another_input_transform_are_refused(tmp_path):
    config = Config(encoder=TINY, backend=FP32, vision=VisionConfig(fit="stretch"))
    stretched = Pipeline(config)
    found = stretched.backend.info.encoder_id
    assert ":128px-stretch:" in found
    Pipeline(replace(config, gate=GateConfig(calibrated_for=found)))
    with pytest.raises(ConfigError, match=r"gate\.tau means nothing for it"):
        Pipeline(replace(config, gate=GateConfig(calibrated_for=found), vision=VisionConfig(fit="crop")))
    head = LinearHead(np.ones((2, 192)), np.zeros(2), ["a", "b"], found)
    head.save(tmp_path / "head.safetensors")
    with_head = replace(TINY, head=str(tmp_path / "head.safetensors"))
    Pipeline(replace(config, encoder=with_head))
    with pytest.raises(HeadError, match="was trained for"):
        Pipeline(replace(config, encoder=replace(with_head, window=2)))
