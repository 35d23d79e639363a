"""Area attention is dense attention under a block mask, whatever the partition and whichever tokens are computed."""

import numpy as np
import pytest
import torch
from reference_model import random_clip, relative_error
from torch import Tensor

from saccade_ros.backends.torch_backend import TorchBackend
from saccade_ros.config import BackendConfig, ConfigError, EncoderConfig
from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.attention import MatmulAttention
from saccade_ros.encoder.cuda_graph import GraphedEncoder
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.rope import Rotation, rotary_tables, rotate
from saccade_ros.encoder.spec import SIZES, ModelSpec
from saccade_ros.encoder.weights import load_encoder

TINY = SIZES["tiny"]  # 8x8 tokens, 4 layers
WINDOW = 3
PARTITIONS = [(2, 2), (1, 4), (3, 2), (8, 8), (3, 5)]  # the last and the third do not divide the grid

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


class MaskedStream:
    """The stream written plainly: keys, values and outputs of each tubelet in raster order, attention under a mask.

    Args:
        area: number of the area of each token, (S,), which is all that it knows of areas.
    """

    def __init__(self, encoder: StreamingEncoder, area: Tensor, layers: int) -> None:
        self.encoder, self.layers, self.count = encoder, layers, 0
        self.same = area[:, None] == area  # (S, S), True = attend
        self.patches: dict[int, Tensor] = {}
        self.memory: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # of a layer's tubelet: (S, A, E) each
        self.canvas: dict[int, Tensor] = {}

    def step(self, patches: Tensor, token_idx: np.ndarray | None = None) -> Tensor:
        """Newest tubelet's tokens, (S, D)."""
        encoder, newest = self.encoder, self.count
        seen = list(range(max(0, newest + 1 - encoder.window), newest + 1))
        block = list(range(max(0, newest + 1 - encoder.recompute), newest + 1))
        shift = min(newest, encoder.window - 1) - newest
        tokens = torch.arange(encoder.spec.tokens) if token_idx is None else torch.from_numpy(token_idx)
        self.patches[newest] = patches
        x = {n: self.patches[n][tokens] for n in block}
        table = rotary_tables(encoder.spec, encoder.window).query  # (W, S, E)
        for i, layer in enumerate(encoder.layers):
            queries = {}
            for n in block:
                q, k, v = layer.attention.qkv(layer.norm1(x[n])).unflatten(1, (3, encoder.spec.heads, -1)).unbind(1)
                if token_idx is not None:
                    kept = [part.clone() for part in self.memory[i, n - 1]]
                    kept[0][tokens], kept[1][tokens] = k, v
                    k, v = kept
                queries[n], self.memory[i, n] = q, (k, v)
            for n in block:
                by = Rotation(*(part[n + shift, tokens, None] for part in table))  # (M, 1, E)
                query = rotate(queries[n], by)  # (M, A, E)
                keys = [rotate(self.memory[i, t][0], Rotation(*(p[t + shift, :, None] for p in table))) for t in seen]
                scores = torch.einsum("qae,kae->aqk", query, torch.cat(keys)) * encoder.spec.head_width**-0.5
                if i < self.layers:
                    scores = scores.masked_fill(~self.same[tokens].repeat(1, len(seen)), -torch.inf)
                values = torch.cat([self.memory[i, t][1] for t in seen])
                out = torch.einsum("aqk,kae->qae", scores.softmax(-1), values).flatten(1)  # (M, D)
                x[n] = x[n] + layer.attention.proj(out)
                x[n] = x[n] + layer.fc2(torch.nn.functional.gelu(layer.fc1(layer.norm2(x[n]))))
        canvas = self.canvas[newest - 1].clone() if token_idx is not None else torch.empty_like(patches)
        canvas[tokens] = encoder.norm(x[newest])
        self.canvas[newest], self.count = canvas, newest + 1
        return canvas


def make(areas: Areas | None = None, window: int = WINDOW, recompute: int = 1) -> StreamingEncoder:
    """Tiny encoder, its weights spread so that attention matters."""
    encoder = load_encoder("tiny", window, recompute).encoder
    for parameter in encoder.parameters():
        parameter.data.mul_(3.0) if parameter.dim() > 1 else None
    return encoder.attend_by_area(areas) if areas else encoder


def bands(length: int, count: int) -> list[int]:
    """Band of each row, where the first rows of 8 fill: 8 in 3 gives 3, 3, 2, and 8 in 5 gives 2, 2, 1, 2, 1."""
    return {(8, 3): [0, 0, 0, 1, 1, 1, 2, 2], (8, 5): [0, 0, 1, 1, 2, 3, 3, 4]}.get(
        (length, count), [i // (length // count) for i in range(length)]
    )


def area_of_tokens(rows: int, columns: int) -> Tensor:
    return torch.tensor([r * columns + c for r in bands(8, rows) for c in bands(8, columns)])


def plans(seed: int = 0) -> list[np.ndarray | None]:
    """Plans of a stream, the first whole: some leave areas empty, one is a single token, one is everything."""
    random = np.random.default_rng(seed)
    drawn = [np.sort(random.choice(64, size, replace=False)) for size in (20, 1, 63, 7, 40)]
    corner = np.array([0, 1, 8, 9, 10])
    return [None, drawn[0], corner, drawn[1], None, drawn[2], np.arange(64), drawn[3], corner, drawn[4], np.arange(32)]


def run(encoder: StreamingEncoder, clip: Tensor, token_idx: list | None = None) -> Tensor:
    ring = encoder.new_ring()
    chosen = token_idx or [None] * len(clip)
    outs = [encoder.step([encoder.embed(t)], [ring], [c])[0] for t, c in zip(clip, chosen, strict=True)]
    return torch.stack([out.tokens[-1] for out in outs])  # (T, S, D)


@pytest.mark.parametrize(("rows", "columns"), PARTITIONS)
def test_every_token_is_in_the_area_of_its_row_and_column(rows, columns):
    areas, expected = Areas.of(TINY, rows, columns, 2), area_of_tokens(rows, columns).numpy()
    assert sorted(areas.token_idx) == list(range(64))
    for area, places in enumerate(areas.slices()):
        assert areas.token_idx[places].tolist() == np.flatnonzero(expected == area).tolist()
    assert areas.token_idx[areas.place_idx].tolist() == list(range(64))
    assert areas.are_equal == (8 % rows == 0 and 8 % columns == 0)


def test_arranged_tokens_lie_in_one_run_for_each_area():
    areas, plan = Areas.of(TINY, 2, 2, 2), np.array([0, 5, 9, 36, 63])
    arranged = areas.arrange(plan)
    assert arranged.tolist() == [0, 9, 5, 36, 63]
    assert [arranged[rows].tolist() for rows in areas.slices_of(arranged)] == [[0, 9], [5], [], [36, 63]]
    assert areas.counts(plan) == (2, 1, 0, 2)


@pytest.mark.parametrize(("rows", "columns", "layers"), [(1, 1, 4), (2, 2, 0)])
def test_one_area_or_no_layers_is_off_to_the_bit(rows, columns, layers):
    areas, clip = Areas.of(TINY, rows, columns, layers), random_clip(5)
    assert not areas.are_on
    assert torch.equal(run(make(areas), clip), run(make(), clip))


def test_one_area_attended_to_as_an_area_is_full_attention():
    one, clip = Areas(4, np.arange(64), np.array([0, 64])), random_clip(3 * WINDOW)
    assert relative_error(run(make(one), clip), run(make(), clip)) <= 1e-5
    sparse = (plans() * 2)[: len(clip)]
    assert relative_error(run(make(one), clip, sparse), run(make(), clip, sparse)) <= 1e-5


@pytest.mark.parametrize("kernel", ["chosen", "plain products"])
@pytest.mark.parametrize("recompute", [1, 2, WINDOW])
@pytest.mark.parametrize(("rows", "columns"), PARTITIONS)
def test_dense_steps_are_full_attention_under_a_block_mask(rows, columns, recompute, kernel):
    encoder = make(Areas.of(TINY, rows, columns, 3), recompute=recompute)
    if kernel == "plain products":
        tables = rotary_tables(TINY, WINDOW)
        encoder.attention = MatmulAttention(TINY, tables, torch.device("cpu"), torch.float32)
    clip = random_clip(3 * WINDOW)
    masked = MaskedStream(encoder, area_of_tokens(rows, columns), 3)
    expected = torch.stack([masked.step(encoder.embed(tubelet)) for tubelet in clip])
    assert relative_error(run(encoder, clip), expected) <= 1e-5


@pytest.mark.parametrize(("rows", "columns"), PARTITIONS)
def test_sparse_steps_are_full_attention_under_a_block_mask(rows, columns):
    """With unequal numbers of tokens in the areas, and none in some."""
    encoder, clip, chosen = make(Areas.of(TINY, rows, columns, 3)), random_clip(11), plans()
    assert any(0 in encoder.areas.counts(plan) for plan in chosen if plan is not None)
    masked = MaskedStream(encoder, area_of_tokens(rows, columns), 3)
    expected = torch.stack([masked.step(encoder.embed(t), c) for t, c in zip(clip, chosen, strict=True)])
    assert relative_error(run(encoder, clip, chosen), expected) <= 1e-5


def test_areas_change_the_tokens():
    """What the tests above would not notice if areas did nothing."""
    clip = random_clip(4)
    assert relative_error(run(make(Areas.of(TINY, 2, 2, 3)), clip), run(make(), clip)) > 0.05


def test_a_sparse_step_of_all_tokens_is_dense():
    encoder, clip = make(Areas.of(TINY, 3, 2, 3)), random_clip(3 * WINDOW)
    whole = [None, *[np.arange(64)] * (len(clip) - 1)]
    assert relative_error(run(encoder, clip, whole), run(encoder, clip)) <= 1e-5


def test_streams_of_a_batch_are_separate_streams():
    encoder, clips = make(Areas.of(TINY, 2, 2, 3)), [random_clip(11, seed) for seed in range(3)]
    chosen = [plans(), plans(1), [None] * 11]
    rings, together = [encoder.new_ring() for _ in clips], []
    for n in range(11):
        outs = encoder.step([encoder.embed(c[n]) for c in clips], rings, [plan[n] for plan in chosen])
        together.append(torch.stack([out.tokens[-1] for out in outs]))
    for i, (clip, plan) in enumerate(zip(clips, chosen, strict=True)):
        assert relative_error(torch.stack(together)[:, i], run(encoder, clip, plan)) <= 1e-5


def test_a_static_scene_settles():
    encoder = make(Areas.of(TINY, 2, 2, 3))
    field = TINY.depth * (WINDOW - 1) + 1
    tokens = run(encoder, random_clip(1).expand(field + 2 * WINDOW, -1, -1, -1, -1))
    assert relative_error(tokens[field + 1 :], tokens[field:-1]) <= 1e-6


def test_a_captured_step_is_that_of_its_own_number_of_tokens_in_each_area():
    """Two plans of four tokens that lie in other areas must not share a graph."""
    encoder, clip = make(Areas.of(TINY, 2, 2, 3)), random_clip(8)
    chosen = [None, None, None, *[np.array(plan) for plan in ([0, 1, 2, 3], [0, 4, 32, 36], [4, 5, 6, 7])] * 2][:8]
    graphed, ring = GraphedEncoder(encoder), encoder.new_ring()
    outs = [graphed.step([encoder.embed(t)], [ring], [c])[0] for t, c in zip(clip, chosen, strict=True)]
    assert torch.equal(torch.stack([out.tokens[-1] for out in outs]), run(encoder, clip, chosen))


def test_areas_that_a_model_cannot_have_are_refused_with_the_most_it_can():
    with pytest.raises(ConfigError, match=r"encoder.area_grid is 9x2, but .* give at most 8x8"):
        Areas.of(TINY, 9, 2, 1)
    with pytest.raises(ConfigError, match=r"encoder.area_layers is 5, but tiny has 4 layers"):
        Areas.of(TINY, 2, 2, 5)


def test_areas_of_merged_tokens_are_refused():
    encoder = load_encoder("tiny", 2, merge=4).encoder
    with pytest.raises(ValueError, match="merge 4 with areas-2x2-1: merged tokens have no area"):
        encoder.attend_by_area(Areas.of(TINY, 2, 2, 1))


def test_memory_is_the_same_with_areas():
    encoder = make(Areas.of(TINY, 2, 2, 3))
    assert encoder.new_ring().nbytes == encoder.cache_bytes == make().cache_bytes


def test_the_encoder_id_tells_areas_from_full_attention():
    def backend(**areas) -> TorchBackend:
        return TorchBackend(EncoderConfig(model="tiny", window=2, **areas), BackendConfig(device="cpu"))

    full, by_area = backend(), backend(area_grid="2x2", area_layers=3)
    assert by_area.info.encoder_id == f"{full.info.encoder_id}:areas-2x2-3"
    assert backend(area_grid="2x2").info.encoder_id == full.info.encoder_id
    assert by_area.info.weights_sha256 == full.info.weights_sha256
    assert by_area.info.token_counts == ()


def test_an_uneven_grid_of_patches_is_cut_as_equally_as_it_can_be():
    odd = ModelSpec("odd", width=192, depth=1, heads=3, input_size=112)  # 7x7
    assert np.diff(Areas.of(odd, 2, 2, 1).bounds).tolist() == [16, 12, 12, 9]
