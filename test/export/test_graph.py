"""The graph computes what torch computes, step by step, caches included, by either contract."""

import numpy as np
import onnx
import pytest
import released_model
import torch
from contracts import require_kernels
from reference_model import make_reference, random_clip

from saccade_ros.backends.graph.step import GraphError
from saccade_ros.backends.onnx_backend import OnnxState, open_session
from saccade_ros.backends.window import WindowTables, empty_keys
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.ring import Block
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.export.graph import build_embed, build_step, step_shape

ONE_THREAD = BackendConfig(device="cpu", threads=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Weights of sd 0.1: with the usual 0.02 attention is nearly uniform and hides a wrong position."""
    folder = tmp_path_factory.mktemp("checkpoint")
    make_reference().save_pretrained(folder)
    return str(folder)


def relative_error(actual, expected) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def depth_rotations(encoder, ring):
    """Matrices that bring the keys of the next step's slots to their window positions: (fill, E, E)."""
    return encoder.attention.rotations(Block(ring))[-1]


def cache_error(state, ring, depth) -> float:
    """Largest relative error of a layer's keys or values, in the slots that are valid."""
    errors = []
    for layer, (keys, values) in enumerate(zip(ring.keys, ring.values, strict=True)):
        expected = keys[:, : ring.fill] @ depth, values[:, : ring.fill]  # (A, fill, S, E)
        for cached, reference in zip(state.cache(layer), expected, strict=True):
            by_slot = cached.reshape(*keys.shape[:3], -1)[:, : ring.fill]
            errors.append(relative_error(by_slot, reference.numpy()))
    return max(errors)


def random_plan(encoder, n):
    """Tokens of tubelet n: none named at first and at every sixth, else one, all, or as many as chance says."""
    rng, tokens = np.random.default_rng(n), encoder.spec.tokens
    size = (0, 1, tokens, *rng.integers(2, tokens, 3))[n % 6]
    return np.sort(rng.permutation(tokens)[:size]) if size else None


def exported_state(encoder, folder, contract, precision="fp32", steps="any"):
    require_kernels(contract)
    build_step(encoder, 1, contract, precision, steps).save(folder / "step.onnx")
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
        patches, depth = encoder.embed(tubelet), depth_rotations(encoder, ring)
        expected = encoder.step([patches], [ring])[0]
        state.step(patches.numpy())
        size = len(expected.tokens)
        assert state.fill == ring.fill
        assert relative_error(state.tokens[-size:], expected.tokens.numpy()) <= 1e-5, n
        assert cache_error(state, ring, depth) <= 1e-5, n


@pytest.mark.parametrize("contract", ["scatter", "host"])
@pytest.mark.parametrize("window", [2, 4])
@pytest.mark.usefixtures("torch_kernels")
def test_sparse_steps_and_their_caches_are_torchs(checkpoint, tmp_path, contract, window):
    """Random plans of any size between dense steps, over more than three windows; kept keys turn with the window."""
    encoder = load_encoder(checkpoint, window).encoder
    state, ring = exported_state(encoder, tmp_path, contract), encoder.new_ring()
    for n, tubelet in enumerate(random_clip(4 * window + 6)):
        patches, token_idx = encoder.embed(tubelet), random_plan(encoder, n)
        depth = depth_rotations(encoder, ring)
        expected = encoder.step([patches], [ring], [token_idx])[0]
        vector = state.step(patches.numpy(), token_idx)
        assert relative_error(state.tokens[-1], expected.tokens[-1].numpy()) <= 1e-4, n
        assert relative_error(vector, expected.newest.numpy()) <= 1e-4, n
        assert cache_error(state, ring, depth) <= 1e-4, n


@pytest.mark.parametrize("contract", ["scatter", "host"])
@pytest.mark.usefixtures("torch_kernels")
def test_held_tubelets_are_torchs(checkpoint, tmp_path, contract):
    encoder = load_encoder(checkpoint, 4).encoder
    state, ring = exported_state(encoder, tmp_path, contract), encoder.new_ring()
    for n, tubelet in enumerate(random_clip(20)):
        patches, depth = encoder.embed(tubelet), depth_rotations(encoder, ring)
        if n % 7 in (2, 4, 5):
            ring.hold()
            state.hold()
        else:
            expected = encoder.step([patches], [ring])[0]
            vector = state.step(patches.numpy())
            assert relative_error(vector, expected.newest.numpy()) <= 1e-4, n
        assert cache_error(state, ring, depth) <= 1e-4, n


@pytest.mark.parametrize("contract", ["scatter", "host"])
def test_all_tokens_through_the_sparse_path_are_a_dense_step(checkpoint, tmp_path, contract):
    """The branch of sparse steps alone, which is what TensorRT gets."""
    encoder = load_encoder(checkpoint, 3).encoder
    dense, sparse = (
        exported_state(encoder, tmp_path, contract),
        exported_state(encoder, tmp_path, contract, steps="sparse"),
    )
    every = np.arange(encoder.spec.tokens)
    for n, tubelet in enumerate(random_clip(11)):
        patches = encoder.embed(tubelet).numpy()
        expected = dense.step(patches)
        vector = sparse.step(patches, every if n else None)
        assert relative_error(vector, expected) <= 1e-5
        assert relative_error(sparse.tokens, dense.tokens) <= 1e-5


def test_kept_keys_do_not_drift(checkpoint, tmp_path):
    """2,000 steps of one token each, of a frozen scene: what is kept all along stays where a fresh step puts it."""
    encoder = load_encoder(checkpoint, 2).encoder
    state, patches = exported_state(encoder, tmp_path, "scatter"), encoder.embed(random_clip(1)[0]).numpy()
    for _ in range(30):
        expected = state.step(patches)
    for n in range(2000):
        vector = state.step(patches, np.array([n % 2]))
    assert relative_error(vector, expected) <= 1e-4


@pytest.mark.parametrize("contract", ["scatter", "host"])
def test_what_failed_or_only_peeked_leaves_no_trace_for_sparse_steps(checkpoint, tmp_path, contract):
    encoder = load_encoder(checkpoint, 2).encoder
    state, untouched = (exported_state(encoder, tmp_path, contract) for _ in range(2))
    for n, tubelet in enumerate(random_clip(9)):
        patches, token_idx = encoder.embed(tubelet).numpy(), random_plan(encoder, n)
        before = state.tokens
        state.peek(patches[::-1].copy())
        for broken in (token_idx, None):
            with pytest.raises(ArithmeticError, match="NaN or infinite"):
                state.step(np.full_like(patches, np.nan), broken)
        assert state.tokens is before
        assert np.array_equal(state.step(patches, token_idx), untouched.step(patches, token_idx)), n
        assert np.array_equal(state.tokens, untouched.tokens), n
    state.reset()
    assert not state.tokens.any()


@pytest.mark.parametrize(("window", "recompute", "steps"), [(3, 1, 0), (3, 2, 4), (1, 1, 2)])
def test_sparse_step_with_nothing_to_start_from_is_refused(checkpoint, tmp_path, window, recompute, steps):
    encoder = load_encoder(checkpoint, window, recompute).encoder
    state, patches = exported_state(encoder, tmp_path, "host"), encoder.embed(random_clip(1)[0]).numpy()
    for _ in range(steps):
        state.step(patches)
    with pytest.raises(ValueError, match=rf"2 of \d+ tokens are to be computed, after {steps} tubelets"):
        state.step(patches, np.array([0, 3]))
    assert state.count == steps


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
@pytest.mark.parametrize(("recompute", "merge"), [(1, 0), (2, 0), (1, 8)])
def test_vjepa21_keeps_its_stretched_rows_and_columns(tmp_path, contract, recompute, merge):
    """8 patches a side on a rotary grid of 16; a step that counts them as they are is 10 % off."""
    torch.save(released_model.document(), tmp_path / "vjepa2_1_small_128.pt")
    encoder = load_encoder(str(tmp_path / "vjepa2_1_small_128.pt"), 3, recompute, merge=merge).encoder
    assert (encoder.spec.rope, encoder.spec.grid, encoder.spec.rope_grid) == ("interleaved", 8, 16)
    state, ring = exported_state(encoder, tmp_path, contract), encoder.new_ring()
    for n, tubelet in enumerate(random_clip(8)):
        patches = encoder.embed(tubelet)
        expected = encoder.step([patches], [ring])[0].tokens[-1].numpy()
        state.step(patches.numpy())
        assert relative_error(state.tokens[-1], expected) <= 1e-4, n


@pytest.mark.parametrize("contract", ["scatter", "host"])
@pytest.mark.parametrize(("window", "merge"), [(4, 8), (2, 3), (3, 40), (1, 8)])
def test_merged_steps_and_their_caches_are_torchs(checkpoint, tmp_path, contract, window, merge):
    """Over more than two windows; each layer's slots have their own number of tokens."""
    encoder = load_encoder(checkpoint, window, merge=merge).encoder
    state, ring = exported_state(encoder, tmp_path, contract), encoder.new_ring()
    for n, tubelet in enumerate(random_clip(3 * window + 2)):
        patches, depth = encoder.embed(tubelet), depth_rotations(encoder, ring)
        expected = encoder.step([patches], [ring])[0]
        vector = state.step(patches.numpy())
        assert state.tokens.shape == expected.tokens.shape == (1, encoder.merging.counts[-1], 192)
        assert relative_error(state.tokens, expected.tokens.numpy()) <= 1e-4, n
        assert relative_error(vector, expected.newest.numpy()) <= 1e-4, n
        assert cache_error(state, ring, depth) <= 1e-4, n
    with pytest.raises(ValueError, match="is computed whole"):
        state.step(patches.numpy(), np.array([0, 3]))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 5e-3)])
def test_half_precision_is_close(checkpoint, tmp_path, precision, tolerance):
    encoder = load_encoder(checkpoint, 3).encoder
    state, ring = exported_state(encoder, tmp_path, "scatter", precision), encoder.new_ring()
    for tubelet in random_clip(8):
        patches = encoder.embed(tubelet)
        expected = encoder.step([patches], [ring])[0].tokens[-1].numpy()
        state.step(patches.numpy())
        assert relative_error(state.tokens[-1], expected) <= tolerance


def test_front_end_is_torchs(checkpoint, tmp_path):
    encoder = load_encoder(checkpoint, 3).encoder
    build_embed(encoder).save(tmp_path / "embed.onnx")
    session = open_session(tmp_path / "embed.onnx", ONE_THREAD, "cpu")
    for tubelet in random_clip(2):
        (patches,) = session.run(None, {"pixels": tubelet.numpy()})
        assert relative_error(patches, encoder.embed(tubelet).numpy()) <= 1e-5


def padded(rows, size):
    """Rows (M, .) filled up with zeros to `size` rows."""
    return np.pad(rows, ((0, size - len(rows)), (0, 0)))


def test_batch_of_streams_of_different_age_and_plan_is_the_streams_apart(checkpoint):
    """One call, two streams: tables, slots and plans are their own, and nobody attends to rows that only fill up."""
    import onnxruntime as ort

    encoder = load_encoder(checkpoint, 3).encoder
    shape = step_shape(encoder, batch=2)
    session = ort.InferenceSession(build_step(encoder, 2, "host").whole().SerializeToString())
    tables, rings = WindowTables(shape), [encoder.new_ring() for _ in range(2)]
    clips, late = [random_clip(16, seed) for seed in range(2)], 4  # the first stream starts four steps later
    cache = {f"keys_{i}": empty_keys(shape, i) for i in range(shape.spec.depth)}
    cache |= {f"values_{i}": np.zeros(shape.values(i), np.float32) for i in range(shape.spec.depth)}
    sizes = set()
    for step in range(16):
        counts, active = (max(0, step - late), step), [0, 1] if step >= late else [1]
        plans = [random_plan(encoder, count + stream) if count else None for stream, count in enumerate(counts)]
        at = [tables.at(count, plan) for count, plan in zip(counts, plans, strict=True)]
        patches = [encoder.embed(clip[count]) for clip, count in zip(clips, counts, strict=True)]
        rows = [p.numpy() if plan is None else p.numpy()[plan] for p, plan in zip(patches, plans, strict=True)]
        size = max(map(len, rows))
        sizes.add(tuple(map(len, rows)))
        feeds = {name: np.stack([padded(getattr(t, name), size) for t in at]) for name in
                 ("query_cos", "query_sin", "key_cos", "key_sin")}  # fmt: skip
        feeds |= {"patches": np.stack([padded(r, size) for r in rows]), "select": np.stack([t.select for t in at])}
        feeds |= {
            "slots": np.stack([t.slots for t in at], axis=1),
            "previous_slot": np.array([t.previous_slot for t in at]),
        }
        out = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds | cache), strict=True))
        for b in active:
            slot = int(at[b].slots[0])
            for name, ring in cache.items():
                ring[b, :, slot * shape.spec.tokens : (slot + 1) * shape.spec.tokens] = out[name.replace("_", "_new_")][
                    b
                ]
            expected = encoder.step([patches[b]], [rings[b]], [plans[b]])[0].tokens[-1].numpy()
            expected = expected if plans[b] is None else expected[plans[b]]
            assert relative_error(out["tokens"][b, : len(rows[b])], expected) <= 1e-5, (step, b)
    assert any(first != second for first, second in sizes)


def test_batch_of_merged_streams_of_different_age_is_the_streams_apart(checkpoint):
    """Each merges its own tokens, at its own places."""
    import onnxruntime as ort

    encoder = load_encoder(checkpoint, 3, merge=8).encoder
    session = ort.InferenceSession(build_step(encoder, 2, "host").whole().SerializeToString())
    shape, rings = step_shape(encoder, batch=2), [encoder.new_ring() for _ in range(2)]
    tables, clips, late = WindowTables(shape), [random_clip(11, seed) for seed in range(2)], 2
    cache = {f"keys_{i}": empty_keys(shape, i) for i in range(shape.spec.depth)}
    cache |= {f"values_{i}": np.zeros(shape.values(i), np.float32) for i in range(shape.spec.depth)}
    for step in range(11):
        counts, active = (max(0, step - late), step), [0, 1] if step >= late else [1]
        at, names = [tables.at(count) for count in counts], ("query_cos", "query_sin", "key_cos", "key_sin")
        patches = [encoder.embed(clip[count]) for clip, count in zip(clips, counts, strict=True)]
        feeds = {name: np.stack([getattr(t, name) for t in at]) for name in names}
        feeds |= {"patches": np.stack(patches), "slots": np.stack([t.slots for t in at], axis=1)}
        out = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds | cache), strict=True))
        for b in active:
            slot = int(at[b].slots[0])
            for name, ring in cache.items():
                new = out[name.replace("_", "_new_")][b]  # (A, S, .)
                ring[b, :, slot * new.shape[1] : (slot + 1) * new.shape[1]] = new
            expected = encoder.step([patches[b]], [rings[b]])[0]
            assert relative_error(out["tokens"][b], expected.tokens[0].numpy()) <= 1e-4, (step, b)
            pooled = out["sizes"][b] @ out["tokens"][b] / shape.spec.tokens
            assert relative_error(pooled, expected.newest.numpy()) <= 1e-4, (step, b)


def test_an_encoder_with_a_part_that_the_graph_lacks_is_refused(checkpoint):
    encoder = load_encoder(checkpoint, 3).encoder
    encoder.modality = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(GraphError, match=r"does not compute with: modality; .* torch backend only"):
        build_step(encoder)
