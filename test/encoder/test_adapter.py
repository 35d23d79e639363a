"""Causal adapters: merged into exactly the weights they belong to."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize

from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.adapter import Adapter, LowRank, load_adapter, target_layers
from saccade_ros.encoder.weights import WeightsError, load_encoder
from saccade_ros.train.stream import stream_tokens

RANK, ALPHA = 2, 4.0


def random_adapter(seed: int = 0) -> Adapter:
    loaded = load_encoder("tiny", 3)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, linear in target_layers(loaded.encoder).items():
        tensors[f"{name}.down"] = torch.randn(RANK, linear.in_features, generator=generator) * 0.1
        tensors[f"{name}.up"] = torch.randn(linear.out_features, RANK, generator=generator) * 0.1
    return Adapter(loaded.sha256, RANK, ALPHA, tensors, {"steps": 1})


@pytest.fixture
def file(tmp_path) -> Path:
    random_adapter().save(tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


def test_merged_is_what_was_trained(file):
    encoder, adapter = load_encoder("tiny", 3).encoder, load_adapter(file)
    for name, linear in target_layers(encoder).items():
        change = LowRank(linear, RANK, ALPHA)
        change.down.data, change.up.data = adapter.tensors[f"{name}.down"], adapter.tensors[f"{name}.up"]
        parametrize.register_parametrization(linear, "weight", change)
    patches = torch.randn(7, 64, 192, generator=torch.Generator().manual_seed(1))
    expected = stream_tokens(encoder, patches)
    merged = load_encoder("tiny", 3, adapter=str(file)).encoder
    ring = merged.new_ring()
    tokens = torch.stack([merged.step([tubelet], [ring])[0].tokens[-1] for tubelet in patches])
    assert (tokens - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (tokens - stream_tokens(load_encoder("tiny", 3).encoder, patches)).abs().max() > 0.01


def test_merging_by_hand(file):
    base, merged = (load_encoder("tiny", 3, adapter=adapter).encoder for adapter in ("", str(file)))
    tensors = load_file(file)
    name = "layers.2.attention.proj"
    expected = base.layers[2].attention.proj.weight + ALPHA / RANK * tensors[f"{name}.up"] @ tensors[f"{name}.down"]
    assert torch.equal(merged.layers[2].attention.proj.weight, expected)
    assert torch.equal(merged.layers[2].fc1.weight, base.layers[2].fc1.weight)


def test_vectors_with_and_without_it_have_different_ids_and_it_is_named(file):
    def facts(adapter: str, precision: str = "fp32"):
        config = EncoderConfig(model="tiny", window=3, adapter=adapter)
        return load_backend(config, BackendConfig(precision=precision)).info

    assert facts("").encoder_id != facts(str(file)).encoder_id
    assert facts(str(file)).weights.endswith(f"causal adapter {file}")
    assert facts(str(file), "bf16").weights_sha256 == facts(str(file)).weights_sha256


def test_adapter_of_other_weights_is_refused_with_both_names(file):
    own, other = (load_encoder("tiny", 3, seed=seed).sha256[:12] for seed in (0, 1))
    with pytest.raises(WeightsError, match=f"trained on weights {own}, encoder.model has {other}"):
        load_encoder("tiny", 3, seed=1, adapter=str(file))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("layers.0.attention.qkv.up"), r"lacks tensor layers\.0\.attention\.qkv\.up"),
        (lambda t: t.update({"layers.9.attention.qkv.up": torch.zeros(2)}), r"unexpected tensor layers\.9"),
        (lambda t: t.update({"layers.0.attention.proj.down": torch.zeros(3, 192)}), r"has shape \(3, 192\)"),
    ],
)
def test_tensors_are_checked_strictly(tmp_path, change, said):
    adapter = random_adapter()
    change(adapter.tensors)
    adapter.save(tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=said):
        load_encoder("tiny", 3, adapter=str(tmp_path / "broken.safetensors"))


def test_other_and_truncated_files_are_refused(tmp_path, file):
    with pytest.raises(WeightsError, match="cannot be read"):
        load_adapter(tmp_path / "absent.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors", metadata={"adapter": json.dumps({"format": "x"})})
    with pytest.raises(WeightsError, match="is no saccade-causal-adapter-1"):
        load_adapter(tmp_path / "other.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_adapter(file)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rank", None, "rank None, not a whole number from 1"),
        ("rank", 0, "rank 0, not a whole number"),
        ("rank", "2", "rank '2', not a whole number"),
        ("rank", 2.0, r"rank 2\.0, not a whole number"),
        ("rank", True, "rank True, not a whole number"),
        ("rank", 10**9, "rank 1000000000, not a whole number from 1 to 16384"),
        ("rank", 1000, "rank 1000 exceeds the encoder's width 192"),
        ("alpha", None, "alpha None, not a finite number"),
        ("alpha", float("nan"), "alpha nan, not a finite number"),
        ("alpha", 0, "alpha 0, not a finite number other than 0"),
        ("base_sha256", None, "base_sha256 None, not a SHA-256 in hex"),
        ("base_sha256", "88ec", "base_sha256 '88ec', not a SHA-256"),
        ("trained", [1], r"trained \[1\], not an object"),
    ],
)
def test_header_that_is_not_as_written_is_refused_by_name(file, name, value, said):
    with safe_open(file, framework="pt") as opened:
        header, tensors = json.loads(opened.metadata()["adapter"]), load_file(file)
    header = {key: kept for key, kept in {**header, name: value}.items() if kept is not None}
    save_file(tensors, file, metadata={"adapter": json.dumps(header)})
    with pytest.raises(WeightsError, match=said):
        load_encoder("tiny", 3, adapter=str(file))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.to(torch.int8), "is int8: these are codes"),
        (lambda t: t * float("nan"), "holds NaN or infinity"),
        (lambda t: t.double() * 1e300, "holds NaN or infinity"),
        (lambda t: t * 1e38, "makes weights of layers.0.attention.qkv NaN or infinite"),
    ],
)
def test_values_are_checked_like_those_of_weights(tmp_path, change, said):
    adapter = random_adapter()
    adapter.tensors.update({name: change(tensor) for name, tensor in adapter.tensors.items()})
    adapter.save(tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=said):
        load_encoder("tiny", 3, adapter=str(tmp_path / "broken.safetensors"))


def test_header_without_notes_on_training_is_taken(file):
    with safe_open(file, framework="pt") as opened:
        header, tensors = json.loads(opened.metadata()["adapter"]), load_file(file)
    del header["trained"]
    save_file(tensors, file, metadata={"adapter": json.dumps(header)})
    assert load_adapter(file).trained == {}


def test_adapter_in_the_home_folder_is_found(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    assert load_encoder("tiny", 3, adapter=f"~/{file.name}").source.endswith(f"causal adapter {file}")


def test_same_adapter_is_the_same_bytes(tmp_path, file):
    random_adapter().save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.glob(".*")] == []
