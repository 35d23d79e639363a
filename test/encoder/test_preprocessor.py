"""A checkpoint's own preprocessing is honoured to rounding, or refused with the reason."""

import json
import shutil
from pathlib import Path

import oracle
import pytest
import torch
from reference_model import random_clip, relative_error
from transformers import VJEPA2Model

from saccade_ros.encoder.weights import WeightsError, load_encoder
from saccade_ros.frames import IMAGENET_MEAN, IMAGENET_STD

PLAIN = {
    "video_processor_type": "VJEPA2VideoProcessor",
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "crop_size": {"height": 128, "width": 128},
    "size": {"shortest_edge": 146},
    "image_mean": list(IMAGENET_MEAN),
    "image_std": list(IMAGENET_STD),
    "rescale_factor": 1 / 255,
    "resample": 2,
}
FILE = "video_preprocessor_config.json"


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def colours(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).expand(3)[:, None, None]


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, 0.5, 0.5),
        ({"image_mean": [0.1, 0.5, 0.9], "image_std": [0.2, 0.3, 0.4]}, [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]),
        ({"image_mean": 0.5, "image_std": 0.25}, 0.5, 0.25),
        ({"do_normalize": False}, 0.0, 1.0),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 0.5, 0.5),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3}, 0.5, 0.2),
    ],
)
@torch.no_grad()
def test_mean_and_deviation_are_honoured_as_transformers_does(copied, settings, mean, std):
    (copied / FILE).write_text(json.dumps({**PLAIN, **settings}))
    ours, window = random_clip(3), 3
    levels = ours * colours(IMAGENET_STD) + colours(IMAGENET_MEAN)
    encoder = load_encoder(str(copied), window, recompute=window).encoder
    ring = encoder.new_ring()
    for tubelet in ours:
        out = encoder.step([encoder.embed(tubelet)], [ring])[0]
    theirs = (levels - colours(mean)) / colours(std)
    expected = oracle.clip_encoder(VJEPA2Model.from_pretrained(copied).eval(), theirs)
    assert relative_error(out.tokens, expected) <= 1e-5


@pytest.mark.parametrize("settings", [PLAIN, {}, dict.fromkeys(PLAIN), {**PLAIN, "size": {"shortest_edge": 999}}])
def test_v_jepa_2s_own_preprocessing_changes_no_weight(checkpoint, copied, settings):
    (copied / FILE).write_text(json.dumps(settings))
    assert load_encoder(str(copied), 2).sha256 == load_encoder(str(checkpoint), 2).sha256


def test_the_file_is_found_as_transformers_finds_it(checkpoint, copied):
    other = {**PLAIN, "image_mean": [0.5] * 3}
    (copied / "preprocessor_config.json").write_text(json.dumps(other))
    old = load_encoder(str(copied), 2).sha256
    assert old != load_encoder(str(checkpoint), 2).sha256
    (copied / "preprocessor_config.json").unlink()
    (copied / "processor_config.json").write_text(json.dumps({"video_processor": other}))
    assert load_encoder(str(copied), 2).sha256 == old
    (copied / FILE).write_text(json.dumps(PLAIN))
    assert load_encoder(str(copied), 2).sha256 == load_encoder(str(checkpoint), 2).sha256


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_center_crop": False}, "do_center_crop is False, but here it is always True"),
        ({"do_resize": False}, "do_resize is False"),
        ({"do_pad": True}, "do_pad is True"),
        ({"resample": 3}, "resample is 3, but here it is always 2"),
        ({"crop_size": 224}, r"crop_size is 224, but config\.json has 128"),
        ({"crop_size": {"height": 128, "width": 160}}, "crop_size is {'height': 128, 'width': 160}"),
        (
            {"video_processor_type": "VideoMAEVideoProcessor", "size": {"shortest_edge": 128}},
            "size is {'shortest_edge': 128}, but here it is always {'shortest_edge': 146}",
        ),
        ({"image_std": [0.5, 0.0, 0.5]}, "is not above 0"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean is \[0\.5, 0\.5\]: a finite number for each"),
        ({"image_mean": ["a", "b", "c"]}, "image_mean is .*: a finite number"),
        ({"image_std": [float("nan")] * 3}, "image_std is .*: a finite number"),
        ({"rescale_factor": 0}, "rescale_factor 0 is not above 0"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(copied, settings, said):
    (copied / FILE).write_text(json.dumps({**PLAIN, **settings}))
    with pytest.raises(WeightsError, match=rf"{FILE}: .*{said}"):
        load_encoder(str(copied), 2)
