"""Sparse steps: M of S tokens computed against the whole window, the others as they were computed last."""

import numpy as np
import oracle
import pytest
import torch
from reference_model import DEPTH, random_clip, relative_error
from torch import Tensor

from saccade_ros.backends.torch_backend import TorchState
from saccade_ros.encoder.attention import FusedAttention, MatmulAttention
from saccade_ros.encoder.cuda_graph import GraphedEncoder
from saccade_ros.encoder.model import NonFiniteError, StreamingEncoder
from saccade_ros.encoder.pooling import NewestPooling
from saccade_ros.encoder.rope import rotary_tables
from saccade_ros.encoder.weights import load_encoder

CPU, WINDOW, S = torch.device("cpu"), 3, 64
ALL = np.arange(S)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
KERNELS = ["chosen", "torch's", "plain products"]
EMULATED = "emulated AMX"  # our kernels wherever there is a compiler; slow, so in few tests
every_kernel = pytest.mark.parametrize("load", [*KERNELS, EMULATED], indirect=True)
Plan = np.ndarray | None

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(params=KERNELS)
def load(request, checkpoint, monkeypatch):
    """Load the reference's checkpoint, on the CPU with one of the kernels."""
    if request.param == EMULATED:
        library = request.getfixturevalue("emulated_library")
        monkeypatch.setattr("saccade_ros.encoder.amx.library", lambda: library)
    elif request.param != "chosen":
        request.getfixturevalue("torch_kernels")

    def load_with(dtype: torch.dtype = torch.float32, window: int = WINDOW) -> StreamingEncoder:
        encoder = load_encoder(str(checkpoint), window).encoder.prepare(CPU, dtype)
        if request.param in ("torch's", "plain products"):
            kind = FusedAttention if request.param == "torch's" else MatmulAttention
            encoder.attention = kind(encoder.spec, rotary_tables(encoder.spec, window), CPU, dtype)
        return encoder

    return load_with


@pytest.fixture
def encoder(checkpoint) -> StreamingEncoder:
    return load_encoder(str(checkpoint), WINDOW).encoder.prepare(CPU, torch.float32)


def random_plans(count: int, seed: int = 0) -> list[Plan]:
    """Plans of a stream, the first whole; then any number of tokens, and one in five whole again."""
    random = np.random.default_rng(seed)

    def draw() -> Plan:
        return (
            np.sort(random.choice(S, int(random.integers(1, S + 1)), replace=False)) if random.random() < 0.8 else None
        )

    return [None, *(draw() for _ in range(count - 1))]


def run(encoder: StreamingEncoder, clip: Tensor, plans: list[Plan]) -> Tensor:
    """Tokens of a stream's tubelets, (T, S, D)."""
    ring = encoder.new_ring()
    outs = [encoder.step([encoder.embed(t)], [ring], [p])[0] for t, p in zip(clip, plans, strict=True)]
    return torch.stack([out.tokens[-1] for out in outs])


def as_tensors(plans: list[Plan]) -> list[Tensor | None]:
    return [None if plan is None else torch.from_numpy(plan) for plan in plans]


def state_of(encoder: StreamingEncoder) -> TorchState:
    return TorchState(encoder.new_ring(), encoder.step, NewestPooling(), threads=1)


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_tokens_through_the_sparse_path_are_the_dense_step(load, dtype):
    encoder, clip = load(dtype), random_clip(3 * WINDOW)
    dense = run(encoder, clip, [None] * len(clip)).float()
    sparse = run(encoder, clip, [None, *[ALL] * (len(clip) - 1)]).float()
    assert relative_error(sparse, dense) <= TOLERANCE[dtype]


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [2, WINDOW])
def test_sparse_steps_are_those_recomputed_from_stored_hidden_states(reference, load, window, dtype):
    clip = random_clip(4 * window)
    plans = random_plans(len(clip))
    assert sum(plan is not None and len(plan) < S for plan in plans) > 2 * window
    expected = oracle.sparse_stream(reference, clip, window, as_tensors(plans))
    assert relative_error(run(load(dtype, window), clip, plans).float(), expected) <= TOLERANCE[dtype]


@every_kernel
@pytest.mark.parametrize("count", [1, 17, 63])
def test_any_number_of_tokens_is_computed(reference, load, count):
    """One, and one more or less than fill the tiles of our kernels, of 16 rows."""
    random, clip = np.random.default_rng(count), random_clip(2 * WINDOW + 1)
    plans: list[Plan] = [None, *(np.sort(random.choice(S, count, replace=False)) for _ in range(2 * WINDOW))]
    expected = oracle.sparse_stream(reference, clip, WINDOW, as_tensors(plans))
    assert relative_error(run(load(), clip, plans), expected) <= 1e-5


def test_held_tubelets_are_sparse_steps_of_no_token(reference, encoder):
    """Steps between which a tubelet is held 0 to W + 1 times."""
    clip, none = random_clip(30), np.empty(0, np.int64)
    plans: list[Plan] = [none if n % 7 in (2, 4, 5) or 20 <= n < 21 + WINDOW else None for n in range(len(clip))]
    expected, ring = oracle.sparse_stream(reference, clip, WINDOW, as_tensors(plans)), encoder.new_ring()
    for n, (tubelet, plan) in enumerate(zip(clip, plans, strict=True)):
        if plan is none:
            ring.hold()
            assert relative_error(ring.canvas, expected[n]) <= 1e-5, n
        else:
            (out,) = encoder.step([encoder.embed(tubelet)], [ring])
            assert relative_error(out.tokens[-1], expected[n]) <= 1e-5, n
    assert ring.count == len(clip)


def test_an_empty_ring_holds_nothing(encoder):
    with pytest.raises(ValueError, match="first tubelet"):
        encoder.new_ring().hold()


def test_oracle_that_computes_all_is_the_dense_oracle(reference):
    clip = random_clip(2 * WINDOW + 1)
    dense = oracle.banded_stream(reference, clip, WINDOW)
    assert relative_error(oracle.sparse_stream(reference, clip, WINDOW, [None] * len(clip)), dense) <= 1e-6


def test_pooled_outputs_are_means_of_the_tokens_with_the_kept_ones(encoder):
    """Of the newest tubelet; over the window, each tubelet as it was when it was the newest."""
    clip, ring = random_clip(3 * WINDOW), encoder.new_ring()
    means: list[Tensor] = []
    for tubelet, plan in zip(clip, random_plans(len(clip), seed=3), strict=True):
        (out,) = encoder.step([encoder.embed(tubelet)], [ring], [plan])
        means.append(out.tokens[-1].mean(dim=0))
        assert relative_error(out.newest, means[-1]) <= 1e-6
        assert relative_error(out.window, torch.stack(means[-WINDOW:]).mean(dim=0)) <= 1e-6


def test_kept_tokens_stay_to_the_bit(encoder):
    clip = random_clip(WINDOW + 2)
    plans: list[Plan] = [None] * (WINDOW + 1)
    tokens = run(encoder, clip, [*plans, np.array([3, 40])])
    kept = np.delete(ALL, [3, 40])
    assert torch.equal(tokens[-1][kept], tokens[-2][kept])
    assert not torch.isclose(tokens[-1][[3, 40]], tokens[-2][[3, 40]]).all(dim=1).any()


def test_streams_with_other_numbers_of_tokens_share_a_step(load):
    """Dense ones among them, and of different age."""
    encoder, clips = load(), [random_clip(12, seed) for seed in range(4)]
    plans = [random_plans(12, seed=5), random_plans(12, seed=6), [None] * 12, [None, *[np.array([7])] * 11]]
    ages, rings = [0, 2, 1, 4], [encoder.new_ring() for _ in clips]
    expected = [run(encoder, clip, plan) for clip, plan in zip(clips, plans, strict=True)]
    for clip, plan, ring, age in zip(clips, plans, rings, ages, strict=True):
        for n in range(age):
            encoder.step([encoder.embed(clip[n])], [ring], [plan[n]])
    for n in range(8):
        places = [age + n for age in ages]
        patches = [encoder.embed(clip[place]) for clip, place in zip(clips, places, strict=True)]
        chosen = [plan[place] for plan, place in zip(plans, places, strict=True)]
        for out, tokens, place in zip(encoder.step(patches, rings, chosen), expected, places, strict=True):
            assert relative_error(out.tokens[-1], tokens[place]) <= 1e-5


def test_a_settled_scene_does_not_change_whatever_is_computed(load):
    settled = DEPTH * (WINDOW - 1) + 1
    still = random_clip(1).expand(settled + 4 * WINDOW, -1, -1, -1, -1)
    tokens = run(load(), still, [*[None] * settled, *random_plans(4 * WINDOW + 1, seed=1)[1:]])
    assert relative_error(tokens[settled:], tokens[settled - 1].expand_as(tokens[settled:])) <= 1e-6


def settled_state(encoder: StreamingEncoder, clip: Tensor, plans: list[Plan]) -> TorchState:
    state = state_of(encoder)
    for tubelet, plan in zip(clip, plans, strict=True):
        state.step(encoder.embed(tubelet), plan)
    return state


def test_a_step_that_fails_leaves_no_trace(encoder):
    """At any fill of the ring; it fails by its result, and in the middle of the layers."""
    clip, plans = random_clip(8), random_plans(8, seed=2)
    state, expected = state_of(encoder), settled_state(encoder, clip[:0], [])
    broken = torch.full_like(encoder.embed(clip[0]), torch.nan)
    for n, (tubelet, plan) in enumerate(zip(clip, plans, strict=True)):
        patches = encoder.embed(tubelet)
        if n:
            with pytest.raises(NonFiniteError):
                state.step(broken, np.array([1, 9, 30]))
            hook = encoder.layers[2].register_forward_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                state.step(patches, np.array([2, 9]))
            hook.remove()
        assert np.array_equal(state.step(patches, plan), expected.step(patches, plan))
        assert torch.equal(state.tokens, expected.tokens)


def test_peeking_leaves_no_trace_and_is_the_dense_step(encoder):
    clip, plans = random_clip(8), random_plans(8, seed=2)
    state, expected = state_of(encoder), state_of(encoder)
    for n, (tubelet, plan) in enumerate(zip(clip, plans, strict=True)):
        peeked, patches = state.peek(encoder.embed(clip[(n + 3) % 8])), encoder.embed(tubelet)
        assert np.array_equal(
            peeked, settled_state(encoder, clip[:n], plans[:n]).step(encoder.embed(clip[(n + 3) % 8]))
        )
        assert np.array_equal(state.step(patches, plan), expected.step(patches, plan))
        if plan is not None:
            state.peek(patches)
            ours, theirs = state.movement(plan), expected.movement(plan)
            assert (ours.spread, ours.mean.tolist()) == (theirs.spread, theirs.mean.tolist())


@pytest.mark.parametrize("age", [1, WINDOW - 1, WINDOW, 2 * WINDOW + 1])
def test_a_completed_step_is_the_dense_one_that_was_never_sparse(encoder, age):
    clip, plans = random_clip(age + 1 + 2 * WINDOW), random_plans(age + 1 + 2 * WINDOW, seed=4)
    completed, dense = (settled_state(encoder, clip[:age], plans[:age]) for _ in range(2))
    patches = encoder.embed(clip[age])
    completed.step(patches, np.array([0, 5, 31]))
    assert np.array_equal(completed.complete(patches), dense.step(patches))
    assert np.array_equal(completed.movement(ALL).mean, dense.movement(ALL).mean)
    for tubelet, plan in zip(clip[age + 1 :], plans[age + 1 :], strict=True):
        patches = encoder.embed(tubelet)
        assert np.array_equal(completed.step(patches, plan), dense.step(patches, plan))
        assert torch.equal(completed.tokens, dense.tokens)


def test_a_completion_that_fails_loses_that_tubelet_only(encoder):
    clip, plans = random_clip(8), random_plans(8, seed=4)
    failed, never = (settled_state(encoder, clip[:5], plans[:5]) for _ in range(2))
    patches = encoder.embed(clip[5])
    failed.step(patches, np.array([0, 5, 31]))
    hook = encoder.layers[2].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failed.complete(patches)
    hook.remove()
    for tubelet, plan in zip(clip[6:], plans[6:], strict=True):
        patches = encoder.embed(tubelet)
        assert np.array_equal(failed.step(patches, plan), never.step(patches, plan))


def test_movement_is_the_mean_change_of_these_tokens(encoder):
    clip, plan, some = random_clip(WINDOW + 2), np.array([2, 3, 20, 61]), np.array([3, 61])
    state = settled_state(encoder, clip[:-1], [None] * (WINDOW + 1))
    before = state.tokens
    state.step(encoder.embed(clip[-1]), plan)
    after = state.tokens
    moved = state.movement(some)
    assert moved.mean == pytest.approx(((after[3] - before[3] + after[61] - before[61]) / 2).numpy(), abs=1e-6)
    distances = (after - after.mean(dim=0)).norm(dim=1)
    assert moved.spread == pytest.approx(float((distances**2).mean() ** 0.5), rel=1e-5)


def test_a_reset_stream_is_a_fresh_one_to_the_bit(encoder):
    clip, plans = random_clip(2 * WINDOW), random_plans(2 * WINDOW, seed=8)
    state, fresh = settled_state(encoder, random_clip(5, seed=9), random_plans(5, seed=9)), state_of(encoder)
    state.reset()
    for tubelet, plan in zip(clip, plans, strict=True):
        patches = encoder.embed(tubelet)
        assert np.array_equal(state.step(patches, plan), fresh.step(patches, plan))


@pytest.mark.parametrize(
    ("window", "recompute", "merge", "tubelets"),
    [(WINDOW, 1, 0, 0), (1, 1, 0, 2), (WINDOW, 2, 0, 2), (WINDOW, 1, 4, 2)],
)
def test_what_cannot_be_sparse_is_refused(window, recompute, merge, tubelets):
    """A first tubelet, window 1, recompute 2, merging."""
    encoder = load_encoder("tiny", window, recompute, merge=merge).encoder
    ring, patches = encoder.new_ring(), torch.randn(S, encoder.spec.width)
    for _ in range(tubelets):
        encoder.step([patches], [ring])
    with pytest.raises(ValueError, match=rf"3 of 64 tokens .* after {tubelets} tubelets, .* is computed whole"):
        encoder.step([patches], [ring], [np.array([1, 2, 3])])
    assert ring.count == tubelets


def test_captured_steps_with_any_number_of_tokens_are_plain_ones_to_the_bit(encoder):
    """The same numbers come again with other tokens: a graph holds their number, not their places."""
    random, sizes = np.random.default_rng(0), [0, 5, 64, 5, 20, 0, 5, 20, 64, 20, 5, 0, 20]
    plans = [np.sort(random.choice(S, size, replace=False)) if size else None for size in sizes]
    clip, ring, graphed = random_clip(len(plans)), encoder.new_ring(), GraphedEncoder(encoder)
    outs = [graphed.step([encoder.embed(t)], [ring], [plan])[0] for t, plan in zip(clip, plans, strict=True)]
    assert torch.equal(torch.stack([out.tokens[-1] for out in outs]), run(encoder, clip, plans))
    assert len(graphed._steps) == len({(min(n + 1, WINDOW), size) for n, size in enumerate(sizes)})


def test_captured_batches_with_other_numbers_of_tokens_are_plain_ones_to_the_bit(encoder):
    graphed, clips = GraphedEncoder(encoder), [random_clip(9, seed) for seed in range(2)]
    plans, (rings, plain_rings) = (
        [random_plans(9, 1), random_plans(9, 2)],
        ([encoder.new_ring() for _ in clips] for _ in range(2)),
    )
    for n in range(9):
        patches, chosen = [encoder.embed(clip[n]) for clip in clips], [plan[n] for plan in plans]
        ours, theirs = graphed.step(patches, rings, chosen), encoder.step(patches, plain_rings, chosen)
        assert all(torch.equal(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_the_formula(load, dtype):
    """Keys, values, means and two canvases; patches in fp32. Sparse steps add nothing."""
    encoder = load(dtype)
    ring, spec = encoder.new_ring(), encoder.spec
    values = 2 * spec.depth * WINDOW * S * spec.width + (WINDOW + 2 * S) * spec.width
    assert ring.nbytes == encoder.cache_bytes == values * dtype.itemsize + S * spec.width * 4
    for tubelet, plan in zip(random_clip(6), random_plans(6), strict=True):
        encoder.step([encoder.embed(tubelet)], [ring], [plan])
    assert ring.nbytes == encoder.cache_bytes
