"""The kernels of attention agree: torch's fused one, plain products, and ours on the matrix unit."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade_ros.encoder.amx import AmxAttention
from saccade_ros.encoder.attention import Attention, FusedAttention, MatmulAttention
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.positions import Indices
from saccade_ros.encoder.ring import Block, RingCache
from saccade_ros.encoder.rope import rotary_tables
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import load_encoder

CPU = torch.device("cpu")
SPEC = ModelSpec("spec", width=192, depth=1, heads=3, input_size=128)  # E 64, S 64
WIDE = ModelSpec("wide", width=160, depth=1, heads=2, input_size=128)  # E 80, as ViT-H; padded to 96
LARGE = ModelSpec("large", width=64, depth=1, heads=1, input_size=384)  # S 576, as V-JEPA 2.1

needs_amx = pytest.mark.skipif(
    not AmxAttention.serves(SPEC, torch.float32), reason="needs a processor with AMX and the kernel that colcon builds"
)


def named(parameter: object) -> str:
    return parameter.name if isinstance(parameter, ModelSpec) else str(parameter)


def new_ring(attention: Attention, spec: ModelSpec, window: int, recompute: int, dtype) -> RingCache:
    return RingCache(spec, window, recompute, attention.key_slot, attention.value_slot, CPU, dtype)


def attend(
    attention: Attention, spec: ModelSpec, steps: list[Tensor], window: int, recompute: int, dtype
) -> list[Tensor]:
    """Run one layer's attention over projected tubelets, as a stream."""
    ring, out = new_ring(attention, spec, window, recompute, dtype), []
    for n in range(len(steps)):
        block = Block(ring)
        block.rotations = attention.rotations(block)
        out.append(attention(0, torch.cat(steps[n + 1 - block.size : n + 1]).to(dtype), block))
        ring.advance()
    return out


def attend_sparsely(
    attention: Attention, spec: ModelSpec, steps: list[Tensor], plans: list[Indices | None], window: int, dtype
) -> tuple[list[Tensor], RingCache]:
    """The same for the tokens of each tubelet that its plan names, None for all; the stream's ring with it."""
    ring, out = new_ring(attention, spec, window, 1, dtype), []
    for step, plan in zip(steps, plans, strict=True):
        block = Block(ring, plan)
        block.append(torch.zeros(spec.tokens, spec.width))  # begins a sparse step's slot as a copy
        block.rotations = attention.rotations(block)
        out.append(attention(0, step[block.token_idx].to(dtype), block))
        ring.advance()
    return out, ring


def random_plans(spec: ModelSpec, tubelets: int, tokens: int) -> list[Indices | None]:
    """A dense step, then sparse ones of so many tokens."""
    random = np.random.default_rng(0)
    return [None, *(np.sort(random.permutation(spec.tokens)[:tokens]) for _ in range(tubelets - 1))]


def as_shown(steps: list[Tensor], plans: list[Indices | None]) -> list[Tensor]:
    """Whole tubelets of which each token is the one computed last."""
    shown = [steps[0]]
    for step, plan in zip(steps[1:], plans[1:], strict=True):
        shown.append(shown[-1].clone())
        shown[-1][plan] = step[plan]
    return shown


def projected(spec: ModelSpec, tubelets: int, scale: float = 1.0) -> list[Tensor]:
    """Queries, keys and values of a few tubelets: (S, 3, A, E) each, in values that bf16 holds."""
    size = (spec.tokens, 3, spec.heads, spec.head_width)
    generator = torch.Generator().manual_seed(0)
    return [(scale * torch.randn(size, generator=generator)).bfloat16() for _ in range(tubelets)]


def errors(got: list[Tensor], expected: list[Tensor]) -> list[float]:
    return [float((g.double() - e.double()).norm() / e.double().norm()) for g, e in zip(got, expected, strict=True)]


@needs_amx
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("spec", [SPEC, WIDE, LARGE], ids=lambda spec: spec.name)
@pytest.mark.parametrize(("window", "recompute"), [(3, 1), (3, 2), (2, 2), (1, 1)])
def test_amx_is_no_further_from_exact_than_torch_is(spec, window, recompute, dtype):
    steps, tables = projected(spec, 2 * window + 2), rotary_tables(spec, window)
    exact = attend(FusedAttention(spec, tables, CPU, torch.float64), spec, steps, window, recompute, torch.float64)
    torchs = attend(FusedAttention(spec, tables, CPU, dtype), spec, steps, window, recompute, dtype)
    ours = attend(AmxAttention(spec, tables, dtype), spec, steps, window, recompute, dtype)
    print(max(errors(ours, exact)), max(errors(torchs, exact)))
    assert max(errors(ours, exact)) <= max(errors(torchs, exact)) < 0.01


@needs_amx
def test_amx_survives_scores_that_outgrow_the_first_slots():
    """The running maximum comes from the first slot; later ones reach 2^1000 times its numerators."""
    steps, tables = projected(SPEC, 6), rotary_tables(SPEC, 3)
    steps = [step * growth for step, growth in zip(steps, (1, 4, 1, 12, 1, 16), strict=True)]
    exact = attend(FusedAttention(SPEC, tables, CPU, torch.float64), SPEC, steps, 3, 1, torch.float64)
    torchs = attend(FusedAttention(SPEC, tables, CPU, torch.bfloat16), SPEC, steps, 3, 1, torch.bfloat16)
    ours = attend(AmxAttention(SPEC, tables, torch.bfloat16), SPEC, steps, 3, 1, torch.bfloat16)
    assert all(o <= 1.5 * t + 1e-3 for o, t in zip(errors(ours, exact), errors(torchs, exact), strict=True))


@needs_amx
def test_amx_passes_nan_on():
    steps = projected(SPEC, 1)
    steps[0][5, 1] = torch.nan  # one key
    assert (
        attend(AmxAttention(SPEC, rotary_tables(SPEC, 2), torch.bfloat16), SPEC, steps, 2, 1, torch.bfloat16)[0]
        .isnan()
        .all()
    )


@needs_amx
def test_amx_gives_the_same_bits_for_any_number_of_threads():
    steps, kernel = projected(SPEC, 4), AmxAttention(SPEC, rotary_tables(SPEC, 3), torch.bfloat16)
    threads = torch.get_num_threads()
    try:
        outputs = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outputs.append(torch.stack(attend(kernel, SPEC, steps, 3, 1, torch.bfloat16)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.usefixtures("amx_kernels")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("spec", "tokens"), [*product([SPEC, WIDE], [1, 7, 32, 33, 63, 64]), (LARGE, 33), (LARGE, 575)], ids=named
)
@pytest.mark.parametrize("window", [3, 2])
def test_amx_is_no_further_from_exact_than_torch_is_in_sparse_steps(spec, tokens, window, dtype):
    steps, tables = projected(spec, 2 * window + 2), rotary_tables(spec, window)
    plans = random_plans(spec, len(steps), tokens)
    exact = FusedAttention(spec, tables, CPU, torch.float64), torch.float64
    torchs, ours = (FusedAttention(spec, tables, CPU, dtype), dtype), (AmxAttention(spec, tables, dtype), dtype)
    expected, theirs, got = (
        [torch.cat(attend_sparsely(attention, spec, steps, plans, window, precision)[0])]  # a token says too little
        for attention, precision in (exact, torchs, ours)
    )
    print(errors(got, expected), errors(theirs, expected))
    assert errors(got, expected) <= errors(theirs, expected) < [0.01]


@pytest.mark.usefixtures("amx_kernels")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("spec", [SPEC, WIDE], ids=lambda spec: spec.name)
@pytest.mark.parametrize("tokens", [1, 33])
def test_amx_keeps_single_tokens_where_whole_tubelets_have_them(spec, tokens, dtype):
    """Bit for bit: the ring of sparse steps is that of dense ones over what they add up to."""
    steps, kernel = projected(spec, 8), AmxAttention(spec, rotary_tables(spec, 3), dtype)
    plans = random_plans(spec, len(steps), tokens)
    sparse, ring = attend_sparsely(kernel, spec, steps, plans, 3, dtype)
    dense, dense_ring = attend_sparsely(kernel, spec, as_shown(steps, plans), [None] * len(steps), 3, dtype)
    for ours, theirs in ((ring.keys, dense_ring.keys), (ring.values, dense_ring.values)):
        assert all(torch.equal(*layers) for layers in zip(ours, theirs, strict=True))
    assert all(torch.equal(s, d[p]) for s, d, p in zip(sparse[1:], dense[1:], plans[1:], strict=True))


def test_plain_products_are_the_fused_kernel():
    steps, tables = projected(SPEC, 5), rotary_tables(SPEC, 3)
    fused = attend(FusedAttention(SPEC, tables, CPU, torch.float32), SPEC, steps, 3, 2, torch.float32)
    plain = attend(MatmulAttention(SPEC, tables, CPU, torch.float32), SPEC, steps, 3, 2, torch.float32)
    assert max(errors(plain, fused)) <= 1e-6


@pytest.mark.parametrize("kernel", [FusedAttention, MatmulAttention])
def test_a_key_with_the_bias_log_2_counts_as_two(kernel):
    attention = kernel(SPEC, rotary_tables(SPEC, 3), CPU, torch.float32)
    queries, keys, values = projected(SPEC, 1)[0].float().permute(1, 2, 0, 3)  # (A, S, E) each
    bias = torch.tensor([[2.0] * 10 + [1.0] * 54]).log()  # (1, S)
    twice = attention.attend(queries, *(torch.cat([part[:, :10], part], dim=1) for part in (keys, values)))
    assert max(errors([attention.attend(queries, keys, values, bias)], [twice])) <= 1e-6


def test_shapes_that_tiles_do_not_fit_are_left_to_torch():
    odd = ModelSpec("odd", width=192, depth=1, heads=3, input_size=112)  # 49 tokens
    assert not AmxAttention.serves(odd, torch.bfloat16)
    encoder = StreamingEncoder(odd, window=2).prepare(CPU, torch.bfloat16)
    assert encoder.step([torch.randn(49, 192)], [encoder.new_ring()])[0].newest.isfinite().all()


def test_bf16_stream_stays_on_the_fp32_one():
    """Whatever kernel serves here: centred cosine of the embeddings, over more than four windows."""
    window, tubelets = 3, 14
    clip = torch.randn(tubelets, 2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    embeddings = []
    for dtype in (torch.float32, torch.bfloat16):
        encoder = load_encoder("tiny", window).encoder.prepare(CPU, dtype)
        ring = encoder.new_ring()
        embeddings.append(torch.stack([encoder.step([encoder.embed(t)], [ring])[0].newest.float() for t in clip]))
    exact, rounded = (e - embeddings[0].mean(dim=0) for e in embeddings)
    assert torch.cosine_similarity(exact, rounded).min() >= 0.999
