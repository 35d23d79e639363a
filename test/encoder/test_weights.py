"""Loading is strict: what is not exactly a checkpoint of the model is refused by name."""

import json
import shutil
from pathlib import Path

import oracle
import pytest
import torch
from reference_model import random_clip, relative_error
from safetensors.torch import load_file, save_file
from transformers import VJEPA2Model

from saccade_ros.config import ConfigError
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import WeightsError, fingerprint, load_encoder, load_untrained, save_transformers

QUERY = "encoder.layer.1.attention.query.weight"


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def rewrite(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_missing_tensor_is_named(copied):
    rewrite(copied, lambda tensors: tensors.pop(QUERY))
    with pytest.raises(WeightsError, match=f"lacks tensor {QUERY}"):
        load_encoder(str(copied), 2)


def test_extra_tensor_is_named(copied):
    rewrite(copied, lambda tensors: tensors.update({"encoder.layer.9.extra": torch.zeros(1)}))
    with pytest.raises(WeightsError, match=r"unexpected tensor encoder\.layer\.9\.extra"):
        load_encoder(str(copied), 2)


def test_wrongly_shaped_tensor_is_named_with_both_shapes(copied):
    rewrite(copied, lambda tensors: tensors.update({QUERY: torch.zeros(3, 192)}))
    with pytest.raises(WeightsError, match=rf"{QUERY} has shape \(3, 192\), the model.s sizes ask for \(192, 192\)"):
        load_encoder(str(copied), 2)


def test_tensor_given_twice_is_named(copied):
    (copied / "model.safetensors").rename(copied / "first.safetensors")
    save_file({QUERY: torch.zeros(192, 192)}, copied / "second.safetensors")
    index = {"weight_map": {"a": "first.safetensors", "b": "second.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=f"unexpected tensor {QUERY}"):
        load_encoder(str(copied), 2)


def test_sharded_checkpoint_is_the_same_encoder(reference, checkpoint, tmp_path):
    reference.save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert load_encoder(str(tmp_path), 2).sha256 == load_encoder(str(checkpoint), 2).sha256


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, 0.5])
def test_truncated_file_is_refused_with_the_remedy(copied, kept):
    file = copied / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(WeightsError, match=r"cannot be read .*again"):
        load_encoder(str(copied), 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "vit"}, "model_type 'vit'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"tubelet_size": 4}, "tubelet_size 4"),
        ({"patch_size": [16, 16]}, "wrong kind"),
        ({"num_attention_heads": 5}, "no multiple of its 5 heads"),
        ({"crop_size": 100}, "no multiple of its 16 px patch"),
    ],
)
def test_config_of_another_architecture_is_refused_by_value(copied, change, said):
    edit_config(copied, **change)
    with pytest.raises(ConfigError, match=said):
        load_encoder(str(copied), 2)


def test_config_that_is_no_json_is_refused(copied):
    (copied / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        load_encoder(str(copied), 2)


def test_folder_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load_encoder(str(tmp_path), 2)
    (tmp_path / "config.json").write_text('{"model_type": "vjepa2"}')
    with pytest.raises(ConfigError, match="lacks 'hidden_size'"):
        load_encoder(str(tmp_path), 2)


def test_name_that_is_nothing_lists_what_it_could_be():
    with pytest.raises(WeightsError, match=r"no hub id .* no size \(tiny, vits, vitb, vitl"):
        load_encoder("vit-enormous", 2)


def test_hub_id_that_cannot_be_had_says_what_to_do(monkeypatch):
    import huggingface_hub

    def offline(*_args: object, **_kwargs: object) -> str:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(WeightsError, match=r"no route to the hub.*give its folder"):
        load_encoder("someone/no-such-model", 2)


def test_hub_id_loads_what_the_hub_gives(monkeypatch, checkpoint):
    import huggingface_hub

    asked = {}

    def downloaded(model: str, **options: object) -> str:
        asked.update(options, model=model)
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", downloaded)
    loaded = load_encoder("someone/vjepa2-small", 2)
    assert (asked["model"], loaded.encoder.spec.name) == ("someone/vjepa2-small", "vjepa2-small")
    assert loaded.sha256 == load_encoder(str(checkpoint), 2).sha256


def test_revision_of_a_hub_id_is_pinned(monkeypatch, checkpoint):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda model, **o: asked.append((model, o["revision"])) or str(checkpoint)
    )
    for model in ("someone/vjepa2@refs/pr/3", "someone/vjepa2@0a1b2c", "someone/vjepa2"):
        load_encoder(model, 2)
    assert asked == [("someone/vjepa2", "refs/pr/3"), ("someone/vjepa2", "0a1b2c"), ("someone/vjepa2", None)]


def cache(folder: Path, checkpoint: Path, monkeypatch, model: str = "someone--small") -> Path:
    """Lay out a hub's cache with one model in it, as its client does."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    snapshot = folder / f"models--{model}" / "snapshots" / ("ab" * 20)
    shutil.copytree(checkpoint, snapshot)
    (folder / f"models--{model}" / "refs").mkdir()
    (folder / f"models--{model}" / "refs" / "main").write_text("ab" * 20)
    return snapshot


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "no proxy at all"])
def test_what_is_cached_is_loaded_whatever_the_way_to_the_hub(tmp_path, checkpoint, monkeypatch, proxy):
    cache(tmp_path, checkpoint, monkeypatch)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, proxy)
    for model in ("someone/small", f"someone/small@{'ab' * 20}"):
        assert load_encoder(model, 2).sha256 == load_encoder(str(checkpoint), 2).sha256


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_what_is_cached_in_part_is_asked_for(tmp_path, checkpoint, monkeypatch, lost):
    (cache(tmp_path, checkpoint, monkeypatch) / lost).unlink()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "no proxy at all")
    with pytest.raises((WeightsError, ConfigError), match=r"someone/small|no config|neither"):
        load_encoder("someone/small", 2)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_a_file_in_place_of_its_folder_is_told_so(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsError, match="give the folder that this file is in"):
        load_encoder(str(tmp_path / name), 2)


def test_folder_below_home_is_found(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert load_encoder(f"~/{checkpoint.name}", 2).sha256 == load_encoder(str(checkpoint), 2).sha256


def test_architectures_that_are_null_are_absent(copied, checkpoint):
    edit_config(copied, architectures=None, num_pooler_layers=None, hidden_act=None)
    assert load_encoder(str(copied), 2).sha256 == load_encoder(str(checkpoint), 2).sha256


def test_random_weights_are_labelled_and_reproducible():
    first, again, other = (load_encoder("tiny", 2, seed=seed) for seed in (3, 3, 4))
    assert first.source == "RANDOM weights, size tiny, seed 3"
    assert first.is_random
    assert first.sha256 == again.sha256 != other.sha256


def test_random_weights_leave_torch_seed_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_encoder("tiny", 2)
    assert torch.rand(1) == expected


def test_checkpoint_is_not_called_random(checkpoint):
    loaded = load_encoder(str(checkpoint), 2)
    assert not loaded.is_random
    assert loaded.source == f"checkpoint {checkpoint}"


def test_fingerprint_sees_a_single_changed_value(checkpoint):
    loaded = load_encoder(str(checkpoint), 2)
    loaded.encoder.layers[3].fc2.bias[5] += 1e-3
    assert fingerprint(loaded.encoder) != loaded.sha256


def test_half_precision_checkpoint_loads_as_fp32(reference, tmp_path):
    import copy

    copy.deepcopy(reference).to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path), 2).encoder.dtype == torch.float32


# Saving

SMALL = ModelSpec("small", width=48, depth=2, heads=2, input_size=128)


def save_small(folder: Path, spec: ModelSpec = SMALL, **options: object):
    encoder = load_untrained(spec, 2, seed=1).encoder
    for parameter in encoder.parameters():  # biases and norms start at constants, which would hide a mix-up
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)), alpha=0.1)
    save_transformers(spec, encoder.state_dict(), folder, **options)
    return encoder


def test_saved_encoder_is_a_whole_checkpoint_of_transformers(tmp_path):
    save_small(tmp_path)
    model, report = VJEPA2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert {name: list(found) for name, found in report.items() if found} == {}
    assert model.config.num_hidden_layers == 2


def test_transformers_agrees_with_the_saved_encoder_that_recomputes_its_window(tmp_path):
    save_small(tmp_path)
    encoder, clip = load_encoder(str(tmp_path), window=3, recompute=3).encoder, random_clip(3)
    ring = encoder.new_ring()
    for tubelet in clip:
        out = encoder.step([encoder.embed(tubelet)], [ring])[0]
    with torch.no_grad():
        expected = oracle.clip_encoder(VJEPA2Model.from_pretrained(tmp_path).eval(), clip)
    assert relative_error(out.tokens, expected) <= 1e-5


def test_saved_encoder_comes_back_with_its_sizes_and_values(tmp_path):
    encoder = save_small(tmp_path / "small")
    loaded = load_encoder(str(tmp_path / "small"), 2)
    assert loaded.encoder.spec == SMALL
    assert loaded.sha256 == fingerprint(encoder)


def test_saved_encoder_has_the_precision_asked_for(tmp_path):
    save_small(tmp_path, dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    assert load_encoder(str(tmp_path), 2).encoder.dtype == torch.float32


def test_interleaved_layout_has_no_config_in_transformers(tmp_path):
    spec = ModelSpec("small", width=64, depth=1, heads=1, input_size=128, rope="interleaved")
    with pytest.raises(ConfigError, match="small has interleaved rotary positions"):
        save_small(tmp_path, spec)
