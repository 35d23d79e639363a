"""The attentive probe of transformers' video classifiers, over a stream's window."""

import json
from pathlib import Path

import pytest
import torch
from reference_model import random_clip, relative_error, scatter
from safetensors.torch import load_file, save_file
from transformers import VJEPA2Config, VJEPA2ForVideoClassification

from saccade_ros.backends import load_backend
from saccade_ros.config import BackendConfig, ConfigError, EncoderConfig
from saccade_ros.encoder.weights import WeightsError, load_encoder

LABELS = ("reach", "grasp", "lift", "place", "retreat")
WINDOW = 3


@pytest.fixture(scope="module")
def classifier() -> VJEPA2ForVideoClassification:
    torch.manual_seed(11)
    config = VJEPA2Config(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        crop_size=128,
        initializer_range=0.1,
        num_pooler_layers=2,
        pred_hidden_size=24,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=2,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
        attn_implementation="eager",
    )
    return scatter(VJEPA2ForVideoClassification(config).eval())


@pytest.fixture
def folder(classifier, tmp_path) -> Path:
    classifier.save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def probing(folder: Path, recompute: int = 1, **changes: object):
    config = EncoderConfig(model=str(folder), window=WINDOW, recompute=recompute, pooling="probe", **changes)
    return load_backend(config, BackendConfig(threads=1))


def vectors(backend, clip: torch.Tensor) -> list:
    state = backend.new_state()
    return [state.step(backend.embed(tubelet.numpy()).patches) for tubelet in clip]


@torch.no_grad()
def test_same_tokens_give_transformers_logits(classifier, folder):
    tokens = torch.randn(2 * 64, 128, generator=torch.Generator().manual_seed(5))
    pooled = load_encoder(str(folder), WINDOW, probe=True).probe(tokens)
    expected = classifier.pooler(tokens[None])[0]
    assert relative_error(pooled, expected) <= 1e-5
    logits = torch.from_numpy(probing(folder).head.logits(pooled.numpy()))
    assert relative_error(logits, classifier.classifier(expected)) <= 1e-5


@torch.no_grad()
def test_full_recompute_is_transformers_classification_of_the_window(classifier, folder):
    clip, backend = random_clip(2 * WINDOW), probing(folder, recompute=WINDOW)
    for n, vector in enumerate(vectors(backend, clip)):
        seen = clip[max(0, n - WINDOW + 1) : n + 1].flatten(0, 1)[None]
        logits = classifier(seen).logits[0]
        assert relative_error(torch.from_numpy(backend.head.logits(vector)), logits) <= 1e-5
        named = backend.head.classify(vector)
        assert named.label == LABELS[int(logits.argmax())]
        assert named.score == pytest.approx(float(logits.softmax(-1).max()), rel=1e-4)


@torch.no_grad()
def test_cached_step_is_probed_over_every_tubelet_as_last_computed(classifier, folder):
    clip, recompute = random_clip(2 * WINDOW), 2
    encoder = load_encoder(str(folder), WINDOW, recompute).encoder
    ring, tokens = encoder.new_ring(), {}
    for n, vector in enumerate(vectors(probing(folder, recompute), clip)):
        block = encoder.step([encoder.embed(clip[n])], [ring])[0].tokens
        tokens.update(enumerate(block, start=n - len(block) + 1))
        window = torch.cat([tokens[t] for t in range(max(0, n - WINDOW + 1), n + 1)])
        assert relative_error(torch.from_numpy(vector), classifier.pooler(window[None])[0]) <= 1e-5


def test_reset_forgets_the_tokens(folder):
    backend, clip = probing(folder), random_clip(5)
    state = backend.new_state()
    for tubelet in random_clip(4, seed=8):
        state.step(backend.embed(tubelet.numpy()).patches)
    state.reset()
    again = [state.step(backend.embed(tubelet.numpy()).patches) for tubelet in clip]
    assert all((a == b).all() for a, b in zip(again, vectors(backend, clip), strict=True))


def test_classifier_checkpoint_is_an_encoder_as_well(classifier, folder, tmp_path_factory):
    alone = tmp_path_factory.mktemp("alone")
    classifier.vjepa2.save_pretrained(alone)
    assert load_encoder(str(folder), WINDOW).sha256 == load_encoder(str(alone), WINDOW).sha256


def test_checkpoint_without_probe_says_so(checkpoint):
    with pytest.raises(WeightsError, match=r"has no probe .*video-classification"):
        probing(checkpoint)
    with pytest.raises(WeightsError, match=r"RANDOM weights, size tiny.* has none"):
        probing(Path("tiny"))


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("pooler.self_attention_layers.1.self_attn.out_proj.bias", None, "lacks tensor"),
        ("classifier.weight", (4, 128), r"has shape \(4, 128\), .*\(5, 128\)"),
        ("pooler.cross_attention_layer.cross_attn.out_proj.bias", (128,), "unexpected tensor"),
    ],
)
def test_probe_is_loaded_strictly(folder, name, shape, said):
    rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(shape)}) if shape else tensors.pop(name))
    with pytest.raises(WeightsError, match=said):
        probing(folder)


@torch.no_grad()
def test_mlp_of_the_probe_is_four_wide_whatever_the_encoders_is(tmp_path):
    torch.manual_seed(3)
    config = VJEPA2Config(
        hidden_size=22,
        num_hidden_layers=2,
        num_attention_heads=1,
        mlp_ratio=48 / 11,
        crop_size=32,
        patch_size=8,
        num_pooler_layers=1,
        pred_hidden_size=12,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=1,
        initializer_range=0.1,
        id2label=dict(enumerate(LABELS)),
    )
    wide = scatter(VJEPA2ForVideoClassification(config).eval())
    wide.save_pretrained(tmp_path)
    loaded, tokens = load_encoder(str(tmp_path), WINDOW, probe=True), torch.randn(32, 22)
    assert (loaded.encoder.spec.mlp_width, loaded.probe.gather.fc1.out_features) == (96, 88)
    assert relative_error(loaded.probe(tokens), wide.pooler(tokens[None])[0]) <= 1e-5


@pytest.mark.parametrize(
    "changes", [{"architectures": None}, {"architectures": ["VJEPA2Model"]}, {"architectures": []}]
)
def test_a_classifier_is_known_by_its_tensors(folder, changes):
    named = probing(folder).head.labels
    edit_config(folder, **changes)
    assert probing(folder).head.labels == named
    assert load_encoder(str(folder), WINDOW).probe is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_pooler_layers": -1}, "num_pooler_layers of config.json is -1, outside 0"),
        ({"num_pooler_layers": 10**6}, "num_pooler_layers of config.json is 1000000, outside"),
        ({"num_pooler_layers": "2"}, "num_pooler_layers '2', of the wrong kind"),
        ({"num_pooler_layers": None}, r"lacks tensor pooler\.self_attention_layers\.2"),
        ({"id2label": {}}, r"classifier\..* has shape .*the model's sizes ask for \(2"),
        ({"id2label": None, "num_labels": 10**12}, r"classifier\..* has shape"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label of config.json does not number"),
    ],
)
def test_sizes_of_the_probe_that_cannot_be_are_refused(folder, changes, said):
    edit_config(folder, **changes)
    with pytest.raises((WeightsError, ConfigError), match=said):
        probing(folder)


def test_labels_that_are_not_named_are_numbered_as_transformers_does(folder):
    edit_config(folder, id2label=None, num_labels=5)
    assert probing(folder).head.labels == tuple(f"LABEL_{i}" for i in range(5))


def test_dead_probe_is_refused(folder):
    rewrite(folder, lambda tensors: tensors["classifier.weight"].zero_())
    with pytest.raises(WeightsError, match=r"tensor classifier\.weight is dead"):
        probing(folder)


def test_labels_that_do_not_number_the_classes_are_refused(folder):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "id2label": {"0": "a", "2": "b"}}))
    with pytest.raises(WeightsError, match="id2label"):
        probing(folder)


def test_normalized_probe_is_refused(folder):
    with pytest.raises(ConfigError, match="classifier needs the length"):
        probing(folder, normalize=True)


def test_probe_counts_in_the_memory_of_a_stream(folder):
    plain = load_backend(EncoderConfig(model=str(folder), window=WINDOW), BackendConfig(name="torch")).info.cache_bytes
    assert probing(folder).info.cache_bytes - plain == WINDOW * 64 * 128 * 4
