"""Files of a checkpoint are those that transformers loads, and hold values that weights can have."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saccade_ros.config import ConfigError
from saccade_ros.encoder.tensors import INDEX, WEIGHTS, WeightsError, weight_files
from saccade_ros.encoder.weights import load_encoder

QUERY = "encoder.layer.1.attention.query.weight"


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


# Files


@pytest.mark.parametrize(
    "stray",
    [
        "model.fp16.safetensors",
        "adapter_model.safetensors",
        "model-00001-of-00002.safetensors",
        "optimizer.safetensors",
    ],
)
def test_another_file_beside_the_weights_is_named_and_not_loaded(copied, stray, caplog):
    alone = load_encoder(str(copied), 2).sha256
    save_file({QUERY: torch.zeros(192, 192)}, copied / stray)
    assert load_encoder(str(copied), 2).sha256 == alone
    assert f"not loaded, as {WEIGHTS} is: {stray}" in caplog.text


def test_index_beside_whole_weights_is_not_followed(copied):
    (copied / INDEX).write_text('{"weight_map": {"a": "absent.safetensors"}}')
    assert weight_files(copied) == [copied / WEIGHTS]


def test_of_a_checkpoint_in_parts_those_that_the_index_lists_are_loaded(reference, checkpoint, tmp_path, caplog):
    reference.save_pretrained(tmp_path, max_shard_size="1MB")
    save_file({"a": torch.zeros(1)}, tmp_path / "model-of-last-week.safetensors")
    assert load_encoder(str(tmp_path), 2).sha256 == load_encoder(str(checkpoint), 2).sha256
    assert "model-of-last-week.safetensors" in caplog.text


def test_a_part_that_is_missing_is_named(reference, tmp_path):
    reference.save_pretrained(tmp_path, max_shard_size="1MB")
    part = sorted(tmp_path.glob("*.safetensors"))[1]
    part.unlink()
    with pytest.raises(WeightsError, match=f"lists {part.name}, not there"):
        load_encoder(str(tmp_path), 2)


def test_weights_of_another_name_are_named_with_the_remedy(copied):
    (copied / WEIGHTS).rename(copied / "vjepa2.safetensors")
    with pytest.raises(
        WeightsError, match=r"neither model\.safetensors nor .* \(but vjepa2\.safetensors\): .*its name"
    ):
        load_encoder(str(copied), 2)


@pytest.mark.parametrize(
    "names", [{"a": "../copy/model.safetensors"}, {"a": "pytorch_model.bin"}, {"a": 3}, {}, [], None]
)
def test_index_that_lists_no_files_beside_it_is_refused(copied, names):
    (copied / WEIGHTS).rename(copied / "a.safetensors")
    (copied / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(WeightsError, match=r"index\.json: names no \.safetensors files beside it"):
        load_encoder(str(copied), 2)


def test_index_that_is_no_json_is_refused(copied):
    (copied / WEIGHTS).unlink()
    (copied / INDEX).write_text("{")
    with pytest.raises(ConfigError, match=r"index\.json: cannot be read"):
        load_encoder(str(copied), 2)


# Values


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn])
def test_codes_in_place_of_weights_are_refused(copied, dtype):
    rewrite(copied, lambda tensors: tensors.update({QUERY: tensors[QUERY].to(dtype)}))
    with pytest.raises(WeightsError, match=rf"tensor {QUERY} is .*: these are codes of a quantized model"):
        load_encoder(str(copied), 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_in_fp32_are_refused(copied, value):
    def spoil(tensors):
        tensors[QUERY] = tensors[QUERY].double()
        tensors[QUERY][5, 7] = value

    rewrite(copied, spoil)
    with pytest.raises(WeightsError, match=f"tensor {QUERY} holds NaN or infinity"):
        load_encoder(str(copied), 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (QUERY, 0.0),
        ("encoder.layer.3.mlp.fc2.weight", 0.02),
        ("encoder.embeddings.patch_embeddings.proj.weight", 0.0),
        ("encoder.layernorm.weight", 0.0),
        ("encoder.layer.0.norm2.weight", 0.0),
    ],
)
def test_dead_weights_are_refused_by_name(copied, name, value):
    rewrite(copied, lambda tensors: tensors[name].fill_(value))
    with pytest.raises(WeightsError, match=rf"tensor {name} is dead: all of its \d+ values are {value:g}"):
        load_encoder(str(copied), 2)


def test_constants_that_training_may_leave_are_taken(copied):
    def change(tensors):
        tensors["encoder.layer.0.norm1.weight"].fill_(1.0)
        tensors["encoder.layer.0.norm1.bias"].zero_()
        tensors["encoder.layer.1.attention.query.bias"].zero_()

    rewrite(copied, change)
    assert not load_encoder(str(copied), 2).is_random
