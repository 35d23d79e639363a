"""Each kind of teacher gives what its own library computes, is known again, and refuses what does not suit it."""

import json

import numpy as np
import onnx
import oracle
import pytest
import tiny_teacher
import torch
from onnx import TensorProto, helper
from reference_model import make_reference, relative_error
from tiny_teacher import write_teacher

from saccade_ros.config import ConfigError
from saccade_ros.encoder.weights import WeightsError, load_encoder
from saccade_ros.train.teachers import (
    ImageTeacher,
    TeacherError,
    VideoMAETeacher,
    VJEPATeacher,
    fingerprint,
    fixed_clip,
    load_teacher,
)
from saccade_ros.vision.preprocess import normalize_all


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small random V-JEPA 2 in transformers' format."""
    folder = tmp_path_factory.mktemp("vjepa")
    make_reference(depth=2, heads=1).save_pretrained(folder)
    return str(folder)


def videomae(folder, frames=8, dtype=torch.float32):
    from transformers import VideoMAEConfig, VideoMAEModel

    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=frames,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.2,
    )
    model = VideoMAEModel(config).eval()
    model.to(dtype).save_pretrained(folder)
    return model


def pictures(views: int, tubelets: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (views, tubelets, 2, side, side, 3), dtype=np.uint8)


# V-JEPA 2


def test_vjepa_teacher_is_the_clip_encoder_of_transformers(checkpoint):
    teacher, views = load_teacher(checkpoint, 3), pictures(2, 3, 128)
    assert isinstance(teacher, VJEPATeacher)
    assert (teacher.side, teacher.width) == (128, 64)
    dense = teacher.dense(views)
    assert dense.shape == (2, 3, 8, 8, 64)
    reference = make_reference(depth=2, heads=1)
    for view, features in zip(views, dense, strict=True):
        with torch.no_grad():
            expected = oracle.clip_encoder(reference, torch.from_numpy(normalize_all(view)))
        assert relative_error(torch.from_numpy(features).flatten(1, 2), expected) <= 1e-4


def test_vjepa_teacher_sees_the_whole_view_in_both_directions(checkpoint):
    teacher, views = load_teacher(checkpoint, 3), pictures(1, 3, 128)
    other = views.copy()
    other[0, 2] = 0
    assert not np.allclose(teacher.dense(views)[0, 0], teacher.dense(other)[0, 0], atol=1e-3)


def test_vjepa_teacher_has_the_fingerprint_of_its_weights(checkpoint):
    assert load_teacher(checkpoint, 2).weights_sha256 == load_encoder(checkpoint, 2).sha256


def test_checkpoint_that_cannot_be_loaded_is_explained_by_the_loader(tmp_path):
    with pytest.raises(WeightsError, match="is no folder"):
        load_teacher("absent model", 2)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"config\.json: holds no JSON object"):
        load_teacher(str(tmp_path), 2)


# VideoMAE


def test_videomae_teacher_is_the_model_of_transformers(tmp_path):
    model, views = videomae(tmp_path), pictures(2, 4, 32)
    teacher = load_teacher(str(tmp_path), 4)
    assert isinstance(teacher, VideoMAETeacher)
    assert (teacher.side, teacher.width) == (32, 32)
    with torch.no_grad():
        frames = torch.from_numpy(normalize_all(views.reshape(2, 8, 32, 32, 3)))
        expected = model(frames).last_hidden_state
    dense = torch.from_numpy(teacher.dense(views))
    assert dense.shape == (2, 4, 2, 2, 32)
    assert relative_error(dense.flatten(1, 3), expected) <= 1e-5


def test_videomae_grid_is_in_order_of_time_rows_and_columns(tmp_path):
    """What changes in one corner of one tubelet changes that place most."""
    videomae(tmp_path)
    teacher, views = load_teacher(str(tmp_path), 4), pictures(1, 4, 32)
    changed = views.copy()
    changed[0, 2, :, 16:, :16] = 255 - changed[0, 2, :, 16:, :16]
    difference = np.abs(teacher.dense(changed) - teacher.dense(views)).sum(axis=-1)[0]
    assert np.unravel_index(difference.argmax(), difference.shape) == (2, 1, 0)


def test_videomae_of_other_clips_is_refused_with_the_length_to_give(tmp_path):
    videomae(tmp_path)
    with pytest.raises(TeacherError, match=r"takes clips of 8 frames in tubelets of 2; views have 4.* --tubelets 4"):
        load_teacher(str(tmp_path), 2)


def test_videomae_in_half_precision_computes_in_fp32(tmp_path):
    videomae(tmp_path, dtype=torch.bfloat16)
    teacher = load_teacher(str(tmp_path), 4)
    assert teacher.dense(pictures(1, 4, 32)).dtype == np.float32


def test_videomae_that_lacks_a_tensor_is_refused_by_its_name(tmp_path):
    from safetensors.torch import load_file, save_file

    videomae(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("encoder.layer.1.output.dense.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=r"lacks tensor encoder\.layer\.1\.output\.dense\.weight"):
        load_teacher(str(tmp_path), 4)


# Image models


def test_image_teacher_gives_features_of_the_newer_pictures(tmp_path):
    teacher, views = load_teacher(str(write_teacher(tmp_path / "t.onnx")), 3), pictures(2, 3, 32)
    assert isinstance(teacher, ImageTeacher)
    assert (teacher.name, teacher.side, teacher.width) == ("tiny", 32, 12)
    dense = teacher.dense(views)
    assert dense.shape == (2, 3, 4, 4, 12)
    expected = np.array([[tiny_teacher.features(tubelet[1]) for tubelet in view] for view in views])
    assert dense == pytest.approx(expected, abs=1e-5)


def test_image_teacher_without_grid_has_a_grid_of_one(tmp_path):
    teacher, views = load_teacher(str(write_teacher(tmp_path / "t.onnx", pooled=True)), 2), pictures(1, 2, 32)
    dense = teacher.dense(views)
    assert dense.shape == (1, 2, 1, 1, 12)
    expected = [tiny_teacher.features(tubelet[1]).mean(axis=(0, 1)) for tubelet in views[0]]
    assert dense[0, :, 0, 0] == pytest.approx(np.array(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"licence": None}, r"t\.json lacks licence: declare the input of t\.onnx there"),
        ({"mean": None, "std": None}, "lacks mean, std"),
        ({"side": "big"}, "has side 'big': give the input's side in pixels"),
        ({"side": 0}, "has side 0"),
        ({"side": 48}, r"takes \['n', 3, 32, 32\], not \(1, 3, 48, 48\): declare its side"),
        ({"mean": [0.5]}, r"has mean \[0\.5\]: give three numbers, for red, green and blue"),
        ({"std": [0.2, 0.2, 0]}, r"has std \[0\.2, 0\.2, 0\]: .*above 0"),
    ],
)
def test_wrong_declaration_is_refused_by_name_and_value(tmp_path, declared, said):
    with pytest.raises(TeacherError, match=said):
        load_teacher(str(write_teacher(tmp_path / "t.onnx", **declared)), 2)


@pytest.mark.parametrize("text", [None, "{", "3"])
def test_declaration_that_is_missing_or_broken_is_refused(tmp_path, text):
    file = write_teacher(tmp_path / "t.onnx")
    beside = file.with_suffix(".json")
    beside.unlink() if text is None else beside.write_text(text)
    with pytest.raises(TeacherError, match=r"t\.json cannot be read .*it declares the input of t\.onnx"):
        load_teacher(str(file), 2)


def test_graph_that_is_missing_or_damaged_is_refused(tmp_path):
    file = write_teacher(tmp_path / "t.onnx")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(TeacherError, match=r"t\.onnx cannot be loaded by ONNX Runtime"):
        load_teacher(str(file), 2)
    file.unlink()
    with pytest.raises(TeacherError, match=r"t\.onnx does not exist"):
        load_teacher(str(file), 2)


def test_graph_that_gives_something_else_is_refused_with_its_shapes(tmp_path):
    file = write_teacher(tmp_path / "t.onnx")
    model = onnx.load(file)
    model.graph.node.append(helper.make_node("Identity", ["pictures"], ["copy"]))
    model.graph.output.append(helper.make_tensor_value_info("copy", TensorProto.FLOAT, None))
    onnx.save(model, file)
    with pytest.raises(TeacherError, match=r"gives \(1, 12, 4, 4\), \(1, 3, 32, 32\): export one output"):
        load_teacher(str(file), 2)
    del model.graph.output[0]
    model.graph.node[-1].CopyFrom(helper.make_node("ReduceMean", ["pictures"], ["copy"], keepdims=0))
    onnx.save(model, file)
    with pytest.raises(TeacherError, match=r"tiny gives \(\): export one output"):
        load_teacher(str(file), 2)


# Fingerprints


def test_fingerprint_names_the_teacher_its_weights_and_its_answer(tmp_path):
    file = write_teacher(tmp_path / "t.onnx")
    found = fingerprint(load_teacher(str(file), 2), 2)
    assert found == json.loads(json.dumps(found)), "as it is read again"
    newer = fixed_clip(2, 32)[0, :, 1]
    expected = np.mean([tiny_teacher.features(picture) for picture in newer], axis=(0, 1, 2))
    assert found["answer"] == pytest.approx(expected.tolist(), rel=1e-3)
    assert found == fingerprint(load_teacher(str(file), 2), 2)


def test_fingerprint_changes_with_one_weight(tmp_path):
    ours, theirs = (
        fingerprint(load_teacher(str(write_teacher(tmp_path / name / "t.onnx", shift=shift)), 2), 2)
        for name, shift in (("a", 0.0), ("b", 0.01))
    )
    assert ours["name"] == theirs["name"]
    assert ours["weights_sha256"] != theirs["weights_sha256"]
    assert ours["answer"] != theirs["answer"]


def test_fingerprint_changes_with_the_declaration(tmp_path):
    """The weights are the same, the answer is not."""
    ours, theirs = (
        fingerprint(load_teacher(str(write_teacher(tmp_path / name / "t.onnx", mean=mean)), 2), 2)
        for name, mean in (("a", [0.4, 0.5, 0.6]), ("b", [0.6, 0.5, 0.4]))
    )
    assert ours["weights_sha256"] == theirs["weights_sha256"]
    assert ours["answer"] != theirs["answer"]


def test_teacher_that_gives_no_numbers_is_refused(tmp_path):
    broken = load_teacher(str(write_teacher(tmp_path / "t.onnx", shift=float("nan"))), 2)
    with pytest.raises(TeacherError, match="no finite numbers"):
        fingerprint(broken, 2)


def test_fixed_clip_has_colours_a_slope_and_motion():
    clip = fixed_clip(3, 48)
    assert (clip.shape, clip.dtype) == ((1, 3, 2, 48, 48, 3), np.uint8)
    frames = clip.reshape(6, 48, 48, 3)
    assert all((frames[i] != frames[i + 1]).any() for i in range(5))
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) > 100
