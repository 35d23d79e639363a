"""Released `.pt` files: what the public model makes of them, and refusal by name of what is not exactly one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import released_model
import torch
from reference_model import random_clip, relative_error
from transformers import VJEPA2Model

from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, ConfigError, EncoderConfig
from saccade_ros.encoder.released import check_released, save_released
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import WeightsError, fingerprint, load_encoder, load_untrained

RECORDED = Path(__file__).parent / "fixtures" / "vjepa21_small.npz"
QKV = "module.backbone.blocks.3.attn.qkv.weight"


def save(folder: Path, document: dict, name: str = "vjepa2_1_small_128.pt") -> str:
    torch.save(document, folder / name)
    return str(folder / name)


@pytest.fixture
def file(tmp_path) -> str:
    return save(tmp_path, released_model.document())


def clip_tokens(file: str, clip: torch.Tensor) -> torch.Tensor:
    """The clip encoder: every tubelet recomputed with the whole clip in the window."""
    encoder = load_encoder(file, window=len(clip), recompute=len(clip)).encoder
    ring = encoder.new_ring()
    for tubelet in clip:
        out = encoder.step([encoder.embed(tubelet)], [ring])[0]
    return out.tokens


@pytest.mark.parametrize("key", ["ema_encoder", "target_encoder"])
def test_vjepa21_gives_the_tokens_of_the_public_model(tmp_path, key):
    file = save(tmp_path, released_model.document(key))
    recorded = torch.from_numpy(np.load(RECORDED)["tokens"])
    assert relative_error(clip_tokens(file, released_model.pictures()), recorded) <= 1e-5


def test_vjepa21_needs_every_part_of_its_difference(file):
    """Guards the comparison itself: without the stretched positions or the modality the tokens are others."""
    recorded = torch.from_numpy(np.load(RECORDED)["tokens"])
    document = released_model.document()
    document["ema_encoder"]["module.backbone.video_mod_embed"].zero_()
    torch.save(document, file)
    assert relative_error(clip_tokens(file, released_model.pictures()), recorded) > 1e-3


def test_sizes_are_read_off_the_tensors_and_the_name(file):
    spec = load_encoder(file, 2).encoder.spec
    assert (spec.width, spec.depth, spec.heads, spec.mlp_width, spec.input_size) == (128, 12, 2, 512, 128)
    assert (spec.rope, spec.position_scale) == ("interleaved", 15 / 7)


def test_input_is_384_where_the_name_does_not_tell(tmp_path):
    file = save(tmp_path, released_model.document(), "mine.pt")
    spec = load_encoder(file, 2).encoder.spec
    assert (spec.input_size, spec.position_scale) == (384, 15 / 23)


def test_released_vjepa2_is_transformers_model(reference: VJEPA2Model, tmp_path):
    renamed = {"pos_embed": torch.zeros(1, 8, 192)}
    for name, tensor in reference.state_dict().items():
        if name.startswith("predictor."):
            continue
        for theirs, ours in (
            ("encoder.embeddings.patch_embeddings", "patch_embed"),
            ("encoder.layernorm", "norm"),
            ("encoder.layer", "blocks"),
            ("attention.proj", "attn.proj"),
        ):
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    for i in range(len(reference.encoder.layer)):
        for kind in ("weight", "bias"):
            parts = [renamed.pop(f"blocks.{i}.attention.{part}.{kind}") for part in ("query", "key", "value")]
            renamed[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    file = save(tmp_path, {"target_encoder": {f"module.{n}": t for n, t in renamed.items()}}, "vit_small-128.pt")
    with torch.no_grad():
        expected = oracle.clip_encoder(reference, random_clip(3))
    assert relative_error(clip_tokens(file, random_clip(3)), expected) <= 1e-5


@pytest.mark.parametrize(
    "name",
    [QKV, *(f"module.backbone.{n}" for n in ("norms_block.0.bias", "patch_embed_img.proj.weight", "video_mod_embed"))],
)
def test_missing_tensor_is_named_even_if_unused(tmp_path, name):
    document = released_model.document()
    del document["ema_encoder"][name]
    with pytest.raises(WeightsError, match=f"lacks tensor {name.removeprefix('module.backbone.')}"):
        load_encoder(save(tmp_path, document), 2)


def test_extra_tensor_is_named(tmp_path):
    document = released_model.document()
    document["ema_encoder"]["module.backbone.registers"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="unexpected tensor registers"):
        load_encoder(save(tmp_path, document), 2)


def test_wrongly_shaped_tensor_is_named_with_both_shapes(tmp_path):
    document = released_model.document()
    document["ema_encoder"][QKV] = torch.zeros(3, 128)
    with pytest.raises(WeightsError, match=r"blocks\.3\.attn\.qkv\.weight has shape \(3, 128\), .* \(384, 128\)"):
        load_encoder(save(tmp_path, document), 2)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([1, 2], "holds none of ema_encoder"),
        ({"predictor": {}}, "holds none of ema_encoder"),
        ({"encoder": {"fc.weight": torch.zeros(2, 2)}}, r"lacks tensor patch_embed\.proj\.weight"),
        ({"encoder": {"patch_embed.proj.weight": torch.zeros(2, 2)}}, r"lacks tensor blocks\.0"),
    ],
)
def test_other_files_are_refused(tmp_path, document, said):
    with pytest.raises(WeightsError, match=said):
        load_encoder(save(tmp_path, document), 2)


@pytest.mark.parametrize("kept", [0, 10, 1000, 0.5, 0.999])
def test_truncated_file_is_refused_with_the_remedy(file, kept):
    whole = Path(file).read_bytes()
    Path(file).write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(WeightsError, match=r"cannot be read .*again"):
        load_encoder(file, 2)


def test_file_with_code_in_it_is_refused_unexecuted(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    with pytest.raises(WeightsError, match="cannot be read"):
        load_encoder(save(tmp_path, {"encoder": Payload()}), 2)
    assert not (tmp_path / "executed").exists()


def test_file_that_is_not_there_is_named():
    with pytest.raises(WeightsError, match=r"absent\.pt' does not exist"):
        load_encoder("absent.pt", 2)


# V-JEPA 1, whose states have every tensor of V-JEPA 2


def absolute(folder: Path, name: str, **others: object) -> str:
    """A tiny state with positions to add, as V-JEPA 1 keeps them."""
    spec = ModelSpec("old", width=64, depth=2, heads=1, input_size=112)
    save_released(spec, load_untrained(spec, 1).encoder.state_dict(), folder / "state_112.pt")
    (state,) = torch.load(folder / "state_112.pt", weights_only=True).values()
    state["pos_embed"] = torch.linspace(-1, 1, 392 * 64).view(1, 392, 64)
    document = {"target_encoder": {f"module.backbone.{key}": t for key, t in state.items()}, **others}
    return save(folder, document, name)


@pytest.mark.parametrize("name", ["vitl16.pth.tar", "vitl16.pt", "vith16-384.pth", "jepa_224.PT"])
def test_v_jepa_1_is_refused_as_what_it_is(tmp_path, name):
    predictor = {f"module.backbone.mask_tokens.{i}": torch.zeros(1, 1, 4) for i in range(2)}
    for others in ({}, {"predictor": predictor}, {"predictor": None, "epoch": 3}):
        with pytest.raises(WeightsError, match=r"adds absolute positions \(pos_embed\), as V-JEPA 1 does"):
            load_encoder(absolute(tmp_path, name, **others), 2)


def test_unused_positions_of_a_whole_v_jepa_2_file_are_passed_over(tmp_path):
    predictor = {f"module.backbone.mask_tokens.{i}": torch.zeros(1, 1, 4) for i in range(10)}
    assert load_encoder(absolute(tmp_path, "vitl_112.pt", predictor=predictor), 2).encoder.spec.rope == "tiled"


# Input size


@pytest.mark.parametrize(
    "name", ["run_epoch_240.pt", "step-100.pt", "e_300.pt", "model_1000.pt", "vit_64.pt", "mine.pt"]
)
def test_a_number_that_is_no_input_size_is_not_taken_for_one(tmp_path, name, caplog):
    assert load_encoder(save(tmp_path, released_model.document(), name), 2).encoder.spec.input_size == 384
    assert ("is no input size; encoder.input_size sets another" in caplog.text) == (name != "mine.pt")


@pytest.mark.parametrize(
    ("name", "size"), [("a_256.pt", 256), ("a-384.pth", 384), ("a.b_224.pth.tar", 224), ("a_512px.pt", 512)]
)
def test_a_known_size_at_the_end_of_the_name_is_the_input_size(tmp_path, name, size):
    assert load_encoder(save(tmp_path, released_model.document(), name), 2).encoder.spec.input_size == size


def test_the_setting_says_the_input_size_of_a_file(tmp_path):
    file = save(tmp_path, released_model.document(), "run_epoch_256.pt")
    config = EncoderConfig(model=file, window=2, input_size=240)
    assert load_backend(config, BackendConfig(threads=1)).info.input_size == 240
    with pytest.raises(ConfigError, match="input 250 px is no multiple of its 16 px patch"):
        load_encoder(file, 2, input_size=250)


def test_any_other_model_says_its_input_size_itself():
    with pytest.raises(WeightsError, match=r"encoder\.input_size is 256, but RANDOM weights, size tiny.* takes 128 px"):
        load_encoder("tiny", 2, input_size=256)


# Files as they are met


def test_file_of_the_old_container_loads(tmp_path):
    torch.save(released_model.document(), tmp_path / "old_128.pt", _use_new_zipfile_serialization=False)
    new = load_encoder(save(tmp_path, released_model.document()), 2)
    assert load_encoder(str(tmp_path / "old_128.pt"), 2).sha256 == new.sha256


def test_folder_that_is_called_like_a_file_is_a_folder(checkpoint, tmp_path):
    (tmp_path / "run.pt").symlink_to(checkpoint)
    assert load_encoder(str(tmp_path / "run.pt"), 2).encoder.spec.width == 192


def test_file_in_the_home_folder_is_found(file, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(file).parent))
    assert load_encoder(f"~/{Path(file).name}", 2).encoder.spec.input_size == 128
    with pytest.raises(WeightsError, match=r"~nobody-of-that-name/a\.pt' does not exist"):
        load_encoder("~nobody-of-that-name/a.pt", 2)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"patch_embed.proj.weight": 3}, "'patch_embed.proj.weight' is a int, not a tensor"),
        ({7: torch.zeros(1)}, "7 is a Tensor, not a tensor by name"),
    ],
)
def test_state_of_other_things_than_tensors_is_refused(tmp_path, state, said):
    with pytest.raises(WeightsError, match=said):
        load_encoder(save(tmp_path, {"encoder": state}), 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.to(torch.int8), "is int8: these are codes"),
        (lambda t: torch.zeros_like(t), "is dead: all of its"),
        (lambda t: t * float("inf"), "holds NaN or infinity"),
    ],
)
def test_values_that_are_no_weights_are_refused(tmp_path, change, said):
    document = released_model.document()
    document["ema_encoder"][QKV] = change(document["ema_encoder"][QKV])
    with pytest.raises(WeightsError, match=said):
        load_encoder(save(tmp_path, document), 2)


# Saving

OURS = ModelSpec("ours_112", width=128, depth=3, heads=2, input_size=112, rope="interleaved", rope_grid=16)


@pytest.mark.parametrize("spec", [OURS, replace(OURS, rope="tiled", rope_grid=0)], ids=["2.1", "2"])
def test_saved_file_comes_back_with_its_sizes_and_values(tmp_path, spec):
    encoder = load_untrained(spec, 2, seed=1).encoder
    save_released(spec, encoder.state_dict(), tmp_path / "ours_112.pt")
    loaded = load_encoder(str(tmp_path / "ours_112.pt"), 2)
    assert loaded.encoder.spec == spec
    assert loaded.sha256 == fingerprint(encoder)
    assert not loaded.is_random


def test_saved_file_has_every_tensor_of_the_public_model(tmp_path):
    spec = ModelSpec("small_128", 128, 12, 2, 128, rope="interleaved", rope_grid=16)
    save_released(spec, load_untrained(spec, 2).encoder.state_dict(), tmp_path / "small_128.pt")
    saved = torch.load(tmp_path / "small_128.pt", weights_only=True)["ema_encoder"]
    assert {name: tuple(tensor.shape) for name, tensor in saved.items()} == released_model.shapes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 4}, "read with heads 2, the model has 4: give heads of 64 channels"),
        ({"input_size": 128}, "read with input_size 112, the model has 128"),
        ({"rope_grid": 0}, "read with rope tiled, the model has interleaved"),
        ({"norm_eps": 1e-5}, "read with norm_eps 1e-06, the model has 1e-05"),
    ],
)
def test_sizes_that_a_file_does_not_tell_are_refused(changes, said):
    with pytest.raises(WeightsError, match=rf"ours_112\.pt: a released file is {said}"):
        check_released(replace(OURS, **changes), Path("ours_112.pt"))
