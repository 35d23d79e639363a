"""The graph computes what torch computes, step by step, caches included, by either contract."""

import numpy as np
import onnx
import pytest
import released_model
import torch
from reference_model import make_reference, random_clip

from saccade_ros.backends.onnx_backend import OnnxState, open_session
from saccade_ros.backends.window import WindowTables, empty_keys
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.ring import Block
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.export.graph import ExportError, build_embed, build_step, step_shape
from saccade_ros.export.quantize import save

ONE_THREAD = BackendConfig(device="cpu", threads=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Weights of sd 0.1: with the usual 0.02 attention is nearly uniform and hides a wrong position."""
    folder = tmp_path_factory.mktemp("checkpoint")
    make_reference().save_pretrained(folder)
    return str(folder)


def relative_error(actual, expected) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def exported_state(encoder, folder, contract, precision="fp32"):
    save(build_step(encoder, 1, contract, precision), folder / "step.onnx")
    onnx.checker.check_model(str(folder / "step.onnx"), full_check=True)
    shape = step_shape(encoder)
    session = open_session(folder / "step.onnx", ONE_THREAD, "cpu")
    return OnnxState(session, shape, WindowTables(shape), EncoderConfig(), "cpu", contract)


@pytest.mark.parametrize("contract", ["scatter", "host"])
@pytest.mark.parametrize(("window", "recompute"), [(4, 1), (4, 2), (3, 3), (1, 1)])
@pytest.mark.usefixtures("torch_kernels")  # others may pack the ring for their own use
def test_every_step_and_every_cache_is_torchs(checkpoint, tmp_path, contract, window, recompute):
    """Over three windows, so through warm-up, the first wrap and after."""
    encoder = load_encoder(checkpoint, window, recompute).encoder
    state, ring = exported_state(encoder, tmp_path, contract), encoder.new_ring()
    for n, tubelet in enumerate(random_clip(3 * window + 2)):
        patches, block = encoder.embed(tubelet), Block(ring)
        _, _, depth = encoder.attention.rotations(block)  # keys to their window positions: (fill, E, E)
        expected = encoder.step([patches], [ring])[0]
        state.step(patches.numpy())
        size = len(expected.tokens)
        assert state.fill == ring.fill
        assert relative_error(state.tokens()[-size:], expected.tokens.numpy()) <= 1e-5, n
        for layer in range(encoder.spec.depth):
            keys, values = ring.keys[layer][:, : block.fill] @ depth, ring.values[layer]
            for cached, reference in zip(state.cache(layer), (keys, values), strict=True):
                by_slot = cached.reshape(encoder.spec.heads, window, encoder.spec.tokens, -1)[:, : ring.fill]
                assert relative_error(by_slot, reference[:, : ring.fill].numpy()) <= 1e-5, (n, layer)


def test_stream_has_no_age(checkpoint, tmp_path):
    """After a month at 2 tubelets a second, angles are as exact as at the start: a frozen scene stays frozen."""
    encoder = load_encoder(checkpoint, 3).encoder
    patches = encoder.embed(random_clip(1)[0]).numpy()
    vectors = []
    for count in (0, 5_184_000):
        state = exported_state(encoder, tmp_path, "scatter")
        state.count = count
        if count:  # a full ring of the same tubelet at this age
            for _ in range(30):
                state.step(patches)
        vectors.append([state.step(patches) for _ in range(30)][-1])
    assert relative_error(vectors[1], vectors[0]) <= 1e-5


@pytest.mark.parametrize("contract", ["scatter", "host"])
@pytest.mark.parametrize("recompute", [1, 2])
def test_vjepa21_keeps_its_stretched_rows_and_columns(tmp_path, contract, recompute):
    """8 patches a side on a rotary grid of 16; a step that counts them as they are is 10 % off."""
    torch.save(released_model.document(), tmp_path / "vjepa2_1_small_128.pt")
    encoder = load_encoder(str(tmp_path / "vjepa2_1_small_128.pt"), 3, recompute).encoder
    assert (encoder.spec.rope, encoder.spec.grid, encoder.spec.rope_grid) == ("interleaved", 8, 16)
    state, ring = exported_state(encoder, tmp_path, contract), encoder.new_ring()
    for n, tubelet in enumerate(random_clip(8)):
        patches = encoder.embed(tubelet)
        expected = encoder.step([patches], [ring])[0].tokens[-1].numpy()
        state.step(patches.numpy())
        assert relative_error(state.tokens()[-1], expected) <= 1e-4, n


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 5e-3)])
def test_half_precision_is_close(checkpoint, tmp_path, precision, tolerance):
    encoder = load_encoder(checkpoint, 3).encoder
    state, ring = exported_state(encoder, tmp_path, "scatter", precision), encoder.new_ring()
    for tubelet in random_clip(8):
        patches = encoder.embed(tubelet)
        expected = encoder.step([patches], [ring])[0].tokens[-1].numpy()
        state.step(patches.numpy())
        assert relative_error(state.tokens()[-1], expected) <= tolerance


def test_front_end_is_torchs(checkpoint, tmp_path):
    encoder = load_encoder(checkpoint, 3).encoder
    save(build_embed(encoder), tmp_path / "embed.onnx")
    session = open_session(tmp_path / "embed.onnx", ONE_THREAD, "cpu")
    for tubelet in random_clip(2):
        (patches,) = session.run(None, {"pixels": tubelet.numpy()})
        assert relative_error(patches, encoder.embed(tubelet).numpy()) <= 1e-5


def test_batch_of_streams_of_different_age_is_the_streams_apart(checkpoint):
    """One call, two streams: their tables and slots are their own."""
    import onnxruntime as ort

    encoder = load_encoder(checkpoint, 3).encoder
    shape = step_shape(encoder, batch=2)
    session = ort.InferenceSession(build_step(encoder, 2, "host").SerializeToString())
    tables, rings = WindowTables(shape), [encoder.new_ring() for _ in range(2)]
    clips, ages = [random_clip(9, seed) for seed in range(2)], (0, 4)
    cache = {f"keys_{i}": empty_keys(shape) for i in range(shape.spec.depth)}
    cache |= {f"values_{i}": np.zeros(shape.values, np.float32) for i in range(shape.spec.depth)}

    def write(new, streams, slots):
        for name, ring in cache.items():
            part = new[name.replace("_", "_new_")]
            for b in streams:
                rows = slice(slots[b] * shape.spec.tokens, (slots[b] + 1) * shape.spec.tokens)
                ring[b, :, rows] = part[b]

    for step in range(max(ages) + 5):
        counts = [step if b == 1 else max(0, step - ages[1]) for b in range(2)]
        active = [b for b in range(2) if b == 1 or step >= ages[1]]
        at = [tables.at(count) for count in counts]
        patches = [encoder.embed(clips[b][counts[b]]) for b in range(2)]
        feeds = {name: np.stack([getattr(t, name) for t in at]) for name in
                 ("query_cos", "query_sin", "key_cos", "key_sin")}  # fmt: skip
        feeds |= {"patches": np.stack([p.numpy() for p in patches]), "slots": np.stack([t.slots for t in at], axis=1)}
        out = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds | cache), strict=True))
        write(out, active, [int(t.slots[0]) for t in at])
        for b in active:
            expected = encoder.step([patches[b]], [rings[b]])[0].tokens[-1].numpy()
            assert relative_error(out["tokens"][b], expected) <= 1e-5


def test_an_encoder_with_a_part_that_the_graph_lacks_is_refused(checkpoint):
    encoder = load_encoder(checkpoint, 3).encoder
    encoder.modality = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ExportError, match=r"does not compute with: modality; .* torch backend only"):
        build_step(encoder)
