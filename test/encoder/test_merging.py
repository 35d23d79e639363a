"""Merged streams are what a slow computation without a cache gives, with explicit sizes and positions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference_model import relative_error
from torch import Tensor

from saccade_ros.backends.torch_backend import TorchBackend
from saccade_ros.config import BackendConfig, ConfigError, EncoderConfig
from saccade_ros.encoder.cuda_graph import GraphedEncoder
from saccade_ros.encoder.kernels import choose_attention
from saccade_ros.encoder.merging import Matching, Placing, TokenMerging, at_centroids, match, merge_tokens
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.rope import rotary_tables
from saccade_ros.encoder.spec import SIZES, ModelSpec
from saccade_ros.encoder.weights import load_untrained

CPU = torch.device("cpu")
TINY = SIZES["tiny"]  # L 4, D 192, A 3, S 64
HALVING = 8  # tokens per layer that leave half of TINY's
STRETCHED = replace(TINY, name="stretched", rope="interleaved", rope_grid=16)  # as V-JEPA 2.1


def in_grid_order(centroids: Tensor, grid: Tensor) -> Tensor:
    """Scrambled positions: the i-th token that is left takes the grid's i-th place, as if nothing had moved."""
    return grid[: len(centroids)]


def load(merge: int, window: int = 3, spec: ModelSpec = TINY) -> StreamingEncoder:
    """Weights wide enough that attention matters, with biases."""
    encoder = load_untrained(spec, window, merge=merge).encoder
    generator = torch.Generator().manual_seed(1)
    for parameter in encoder.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.08)
    return encoder


def tubelets(encoder: StreamingEncoder, count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(encoder.spec.tokens, encoder.spec.width, generator=generator)
    return [still + 0.5 * torch.randn(still.shape, generator=generator) for _ in range(count)]


def stream(encoder: StreamingEncoder, clip: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Tokens and pooled embedding of each step on a fresh ring."""
    ring = encoder.new_ring()
    outputs = [encoder.step([patches], [ring])[0] for patches in clip]
    return [(out.tokens[-1], out.newest) for out in outputs]


class SlowStream:
    """The stream written out: every tubelet's inputs are kept by layer, keys computed anew, tokens merged one by one.

    Attributes:
        sizes: of the newest tubelet's tokens as they entered each layer, and as they left the last.
    """

    def __init__(self, encoder: StreamingEncoder, placing: Placing) -> None:
        self.encoder, self.spec, self.placing = encoder, encoder.spec, placing
        self.kept: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in encoder.layers]
        side, scale = self.spec.grid, self.spec.position_scale
        cells = [(scale * (cell // side), scale * (cell % side)) for cell in range(self.spec.tokens)]
        self.grid = torch.tensor(cells)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        counts = self.spec.token_counts(self.encoder.merging.merge)
        sizes, places, self.sizes = torch.ones(len(x)), self.grid, []
        for layer, kept, left in zip(self.encoder.layers, self.kept, counts[1:], strict=True):
            self.sizes.append(sizes)
            kept.append((x, sizes, places))
            x = x + self._attention(layer, kept[-self.encoder.window :])
            keys = self._heads(layer, x=kept[-1][0], part=1).mean(1)  # (n, E)
            x, sizes, places = self._merge(x, sizes, places, keys, len(x) - left)
            x = x + layer.fc2(torch.nn.functional.gelu(layer.fc1(layer.norm2(x.clone()))))
        self.sizes.append(sizes)
        tokens = self.encoder.norm(x)
        return tokens, sum(size * token for size, token in zip(sizes, tokens, strict=True)) / self.spec.tokens

    def _heads(self, layer: torch.nn.Module, x: Tensor, part: int) -> Tensor:
        """Queries (0), keys (1) or values (2): (n, A, E)."""
        qkv = layer.attention.qkv(layer.norm1(x.clone()))
        return qkv.chunk(3, dim=1)[part].unflatten(1, (self.spec.heads, -1))

    def _attention(self, layer: torch.nn.Module, seen: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        newest = len(seen) - 1
        query = self._rotate(self._heads(layer, seen[-1][0], 0), newest, seen[-1][2])
        keys = torch.cat([self._rotate(self._heads(layer, x, 1), t, places) for t, (x, _, places) in enumerate(seen)])
        values = torch.cat([self._heads(layer, x, 2) for x, _, _ in seen])
        weights = torch.cat([sizes for _, sizes, _ in seen]).log()  # (keys,)
        out = []
        for head in range(self.spec.heads):
            scores = query[:, head] @ keys[:, head].T / math.sqrt(self.spec.head_width)
            out.append((scores + weights).softmax(1) @ values[:, head])
        return layer.attention.proj(torch.cat(out, dim=1))

    def _rotate(self, x: Tensor, time: int, places: Tensor) -> Tensor:
        """Rotate (n, A, E), channel pair by channel pair."""
        width, rotated = self.spec.rope_width, x.clone()
        for part, positions in enumerate((torch.full((len(x),), float(time)), places[:, 0], places[:, 1])):
            for channel in range(width):
                power = channel % (width // 2) if self.spec.rope == "tiled" else channel // 2
                angle = (positions / 10000 ** (2 * power / width))[:, None]
                at = part * width + channel
                partner = x[..., at + 1] if channel % 2 == 0 else x[..., at - 1]
                sign = -1 if channel % 2 == 0 else 1
                rotated[..., at] = x[..., at] * angle.cos() + sign * partner * angle.sin()
        return rotated

    def _merge(
        self, x: Tensor, sizes: Tensor, places: Tensor, keys: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens = [(float(s), s * x_, s * p) for s, x_, p in zip(sizes, x, places, strict=True)]
        pairs = []
        for even in range(0, len(x), 2):
            found = [(float(torch.cosine_similarity(keys[even], keys[odd], dim=0)), odd) for odd in range(1, len(x), 2)]
            best, odd = max(found)
            pairs.append((best, even, odd))
        gone = set()
        for _, even, odd in sorted(pairs, reverse=True)[:count]:
            tokens[odd] = tuple(a + b for a, b in zip(tokens[odd], tokens[even], strict=True))
            gone.add(even)
        left = [token for i, token in enumerate(tokens) if i not in gone]
        merged, centroids = (torch.stack([token[part] / token[0] for token in left]) for part in (1, 2))
        return merged, torch.tensor([size for size, _, _ in left]), self.placing(centroids, self.grid)


@pytest.mark.parametrize(
    ("merge", "spec", "placing"),
    [
        pytest.param(0, TINY, at_centroids, id="none"),
        pytest.param(3, TINY, at_centroids, id="few"),
        pytest.param(HALVING, TINY, at_centroids, id="half"),
        pytest.param(40, TINY, at_centroids, id="as many as can be"),
        pytest.param(HALVING, STRETCHED, at_centroids, id="V-JEPA 2.1"),
        pytest.param(HALVING, TINY, in_grid_order, id="scrambled positions"),
    ],
)
@torch.inference_mode()
def test_merged_stream_is_the_slow_one(merge, spec, placing):
    encoder = load(merge, window=2, spec=spec)
    if placing is not at_centroids:
        encoder.merging = TokenMerging(spec, merge, placing)
    clip, slow, ring = tubelets(encoder, 5), SlowStream(encoder, placing), encoder.new_ring()
    for n, patches in enumerate(clip):
        (output,) = encoder.step([patches], [ring])
        tokens, pooled = slow.step(patches)
        assert output.tokens.shape == (1, *tokens.shape)
        assert relative_error(output.tokens[0], tokens) <= 1e-5, n
        assert relative_error(output.newest, pooled) <= 1e-5, n
        for kept, sizes in zip(ring.log_sizes, slow.sizes, strict=False):  # none are kept where none are merged
            assert torch.equal(kept[n % 2], sizes.log()), n


def test_bf16_is_fp32_to_its_precision():
    """Rounding also moves some matches, so more than without merging."""
    clip = tubelets(load(HALVING), 7)
    exact = torch.stack([pooled for _, pooled in stream(load(HALVING).prepare(CPU, torch.float32), clip)])
    rounded = torch.stack([pooled for _, pooled in stream(load(HALVING).prepare(CPU, torch.bfloat16), clip)])
    assert relative_error(rounded.float(), exact) <= 0.15


def test_merging_none_is_the_plain_stream_to_the_bit():
    plain, none = load_untrained(TINY, 3).encoder.prepare(CPU, torch.float32), load_untrained(TINY, 3, merge=0).encoder
    none.prepare(CPU, torch.float32)
    clip = tubelets(plain, 7)
    for (tokens, pooled), (same_tokens, same_pooled) in zip(stream(plain, clip), stream(none, clip), strict=True):
        assert torch.equal(tokens, same_tokens)
        assert torch.equal(pooled, same_pooled)


@pytest.mark.parametrize("merge", [0, 1, HALVING, 40])
def test_schedule_takes_a_fixed_number_up_to_half_and_leaves_an_eighth(merge):
    expected = {0: [64] * 5, 1: [64, 63, 62, 61, 60], HALVING: [64, 56, 48, 40, 32], 40: [64, 32, 16, 8, 8]}
    assert list(TINY.token_counts(merge)) == expected[merge]


@pytest.mark.parametrize("merge", [3, 40])
def test_sizes_sum_to_the_patches_in_every_layer(merge):
    encoder = load(merge)
    ring = encoder.new_ring()
    for patches in tubelets(encoder, 5):
        encoder.step([patches], [ring])
    for log_sizes, count in zip(ring.log_sizes, encoder.merging.counts[:-1], strict=True):
        assert log_sizes.shape == (3, count)
        torch.testing.assert_close(log_sizes.exp().sum(dim=1), torch.full((3,), 64.0))


def test_static_scene_settles_once_the_receptive_field_has_filled():
    encoder = load(HALVING)
    field = TINY.depth * (encoder.window - 1) + 1
    tokens = torch.stack([tokens for tokens, _ in stream(encoder, tubelets(encoder, 1) * (field + 6))])
    changes = (tokens[1:] - tokens[:-1]).norm(dim=(1, 2)) / tokens[:-1].norm(dim=(1, 2))
    assert changes[field:].max() <= 1e-6


def test_streams_of_different_age_share_a_batch():
    encoder, ages = load(HALVING), [0, 1, 5]
    clips, rings = [tubelets(encoder, 9, seed) for seed in range(3)], [encoder.new_ring() for _ in range(3)]
    for clip, ring, age in zip(clips, rings, ages, strict=True):
        for patches in clip[:age]:
            encoder.step([patches], [ring])
    for step in range(4):
        together = encoder.step([clip[age + step] for clip, age in zip(clips, ages, strict=True)], rings)
        for out, clip, age in zip(together, clips, ages, strict=True):
            assert relative_error(out.tokens[0], stream(encoder, clip[: age + step + 1])[-1][0]) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("merge", [3, HALVING, 40])
def test_memory_is_the_formula(merge, dtype):
    encoder = load(merge).prepare(CPU, dtype)
    counts, kept = TINY.token_counts(merge)[:-1], TINY.token_counts(merge)[-1]
    values = sum(3 * count * (2 * 192 + 1) for count in counts) + (3 + 2 * kept) * 192
    assert encoder.new_ring().nbytes == encoder.cache_bytes == dtype.itemsize * values + 4 * 64 * 192


def test_same_clip_twice_gives_the_same_bytes_also_after_a_reset():
    encoder = load(HALVING)
    clip, ring = tubelets(encoder, 7), encoder.new_ring()
    for patches in tubelets(encoder, 5, seed=9):
        encoder.step([patches], [ring])
    ring.reset()
    again = [encoder.step([patches], [ring])[0].tokens[0] for patches in clip]
    for tokens, first, second in zip(again, stream(encoder, clip), stream(load(HALVING), clip), strict=True):
        assert torch.equal(tokens, first[0])
        assert torch.equal(tokens, second[0])


def test_a_graph_of_static_buffers_gives_the_same_stream():
    encoder = load(HALVING)
    graphed, ring, clip = GraphedEncoder(encoder), encoder.new_ring(), tubelets(encoder, 7)
    for patches, (tokens, pooled) in zip(clip, stream(encoder, clip), strict=True):
        (output,) = graphed.step([patches], [ring])
        assert torch.equal(output.tokens[0], tokens)
        assert torch.equal(output.newest, pooled)


def test_most_similar_pairs_merge_wherever_they_are():
    """Of even tokens 0, 2, 4: 4 is as 1, up to its length, and 0 nearly as 5; 2 is alone."""
    keys = torch.tensor([[1.0, 0.1], [0.0, 1.0], [-1.0, -1.0], [-1.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    matching = match(keys, 2)
    assert matching.source_idx.tolist() == [4, 0]
    assert matching.target_idx.tolist() == [1, 5]
    assert matching.kept_idx.tolist() == [1, 2, 3, 5]


def test_equal_pairs_merge_in_the_order_of_the_grid():
    matching = match(torch.ones(7, 2), 2)
    assert matching.source_idx.tolist() == [0, 2]
    assert matching.target_idx.tolist() == [1, 1]


def test_merged_token_is_the_mean_of_all_its_patches_at_their_centroid():
    tokens, sizes = torch.tensor([[4.0], [1.0], [8.0], [0.0]]), torch.tensor([2.0, 1.0, 1.0, 3.0])
    places = torch.tensor([[0.0, 0.5], [0.0, 2.0], [1.0, 1.0], [2.0, 2.0]])
    two_into_one = Matching(torch.tensor([0, 2]), torch.tensor([1, 1]), torch.tensor([1, 3]))
    merged, centroids, left = merge_tokens(tokens, places, sizes, two_into_one)
    assert left.tolist() == [4.0, 3.0]
    assert merged.flatten().tolist() == [(2 * 4 + 1 + 8) / 4, 0.0]
    assert centroids.tolist() == [[(0 + 0 + 1) / 4, (2 * 0.5 + 2 + 1) / 4], [2.0, 2.0]]


def test_torchs_attention_serves_wherever_tokens_merge(monkeypatch):
    from saccade_ros.encoder import amx

    monkeypatch.setattr(amx.AmxAttention, "serves", lambda spec, dtype: True)
    chosen = choose_attention(TINY, rotary_tables(TINY, 2), CPU, torch.float32, merges=True)
    assert not isinstance(chosen, amx.AmxAttention)


def test_merging_is_not_combined_with_what_it_cannot_serve():
    with pytest.raises(ConfigError, match=r"encoder\.merge is 4 with encoder\.recompute 2"):
        EncoderConfig(merge=4, recompute=2)
    with pytest.raises(ConfigError, match=r"encoder\.merge is 4 with encoder\.pooling probe"):
        EncoderConfig(merge=4, pooling="probe")
    with pytest.raises(ValueError, match="merge 4 with recompute 2"):
        StreamingEncoder(TINY, 3, recompute=2, merge=4)
    encoder = load(4)
    ring, (first, second) = encoder.new_ring(), tubelets(encoder, 2)
    encoder.step([first], [ring])
    with pytest.raises(ValueError, match="or merging, is computed whole"):
        encoder.step([second], [ring], [np.arange(5)])


def test_backend_names_merged_vectors_otherwise_and_peeks_without_a_trace():
    config = EncoderConfig(model="tiny", window=3, merge=HALVING)
    plain = TorchBackend(replace(config, merge=0), BackendConfig(device="cpu"))
    backend = TorchBackend(config, BackendConfig(device="cpu"))
    assert backend.info.encoder_id == f"{plain.info.encoder_id}:merge{HALVING}"
    assert backend.info.token_counts == (64,)
    assert backend.info.cache_bytes < plain.info.cache_bytes
    state, twin = backend.new_state(), backend.new_state()
    for seed in range(5):
        pixels = np.random.default_rng(seed).standard_normal((2, 3, 128, 128)).astype(np.float32)
        state.peek(backend.embed(-pixels).patches)
        np.testing.assert_array_equal(*(one.step(backend.embed(pixels).patches) for one in (state, twin)))
    assert state.tokens.shape == (32, 192)
