"""The ring's memory and its bookkeeping."""

import pytest
import torch

from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.ring import Block, RingCache
from saccade_ros.encoder.spec import SIZES, ModelSpec
from saccade_ros.encoder.weights import load_encoder

SMALL = ModelSpec("small", width=192, depth=2, heads=3, input_size=64)


@pytest.mark.parametrize(("window", "recompute"), [(1, 1), (8, 1), (8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_the_formula(window, recompute, dtype):
    encoder = StreamingEncoder(SMALL, window, recompute).prepare(torch.device("cpu"), dtype)
    assert encoder.new_ring().nbytes == encoder.cache_bytes


def test_memory_of_vitl_is_as_documented():
    """L*W*A*2*S*E + (W + 2*S)*D values and r*S*D of fp32: 24 layers, 8 tubelets of 256 tokens, 16 heads of 64."""
    values, patches = 24 * 8 * 16 * 2 * 256 * 64 + (8 + 2 * 256) * 1024, 256 * 1024
    assert RingCache.bytes_needed(SIZES["vitl"], 8, 1, (256, 64), torch.bfloat16) == 2 * values + 4 * patches


@pytest.fixture(scope="module")
def encoder() -> StreamingEncoder:
    return load_encoder("tiny", window=3, recompute=2).encoder


def patches(encoder: StreamingEncoder) -> torch.Tensor:
    return torch.randn(encoder.spec.tokens, encoder.spec.width)


def test_slots_positions_and_fill_advance_with_the_stream(encoder):
    ring = encoder.new_ring()
    seen = []
    for _ in range(5):
        block = Block(ring)
        seen.append((block.slot_idx.tolist(), block.position_idx.tolist(), block.fill))
        ring.advance()
    assert seen == [([0], [0], 1), ([0, 1], [0, 1], 2), ([1, 2], [1, 2], 3), ([2, 0], [1, 2], 3), ([0, 1], [1, 2], 3)]


def test_newest_key_is_at_the_last_position_and_the_oldest_at_the_first(encoder):
    ring = encoder.new_ring()
    for _ in range(7):
        ring.advance()
    assert Block(ring).key_position_idx.tolist() == [1, 2, 0]  # tubelet 7 in slot 1; 5, 6 in slots 2, 0


def test_a_block_made_once_is_updated_in_place_on_a_full_ring(encoder):
    """What a captured graph relies on: one set of indices, rewritten in place."""
    ring = encoder.new_ring()
    for _ in range(3):
        ring.advance()
    kept = Block(ring)
    memory = kept.slot_idx.data_ptr()
    for _ in range(4):
        ring.advance()
        kept.update()
        fresh = Block(ring)
        assert torch.equal(kept.slot_idx, fresh.slot_idx)
        assert torch.equal(kept.key_position_idx, fresh.key_position_idx)
    assert kept.slot_idx.data_ptr() == memory


def test_memory_never_moves(encoder):
    ring = encoder.new_ring()
    before = [t.data_ptr() for t in (*ring.keys, *ring.values, ring.patches, ring.means)]
    for _ in range(8):
        encoder.step([patches(encoder)], [ring])
    assert [t.data_ptr() for t in (*ring.keys, *ring.values, ring.patches, ring.means)] == before


def test_fill_counts_up_to_the_window_and_reset_empties(encoder):
    ring = encoder.new_ring()
    fills = [ring.fill]
    for _ in range(5):
        encoder.step([patches(encoder)], [ring])
        fills.append(ring.fill)
    ring.reset()
    assert [*fills, ring.fill] == [0, 1, 2, 3, 3, 3, 0]


def test_one_ring_twice_in_a_batch_is_refused(encoder):
    ring = encoder.new_ring()
    with pytest.raises(ValueError, match="given twice"):
        encoder.step([patches(encoder)] * 2, [ring, ring])


def test_failed_step_advances_no_ring_of_the_batch(encoder):
    rings = [encoder.new_ring(), encoder.new_ring()]
    broken = torch.full((encoder.spec.tokens, encoder.spec.width), torch.nan)
    with pytest.raises(ArithmeticError, match="NaN or infinite"):
        encoder.step([patches(encoder), broken], rings)
    assert [ring.count for ring in rings] == [0, 0]


@pytest.mark.parametrize(
    ("window", "recompute", "said"), [(33, 1, "1..32"), (0, 1, "1..32"), (4, 5, "1..4"), (4, 0, "1..4")]
)
def test_impossible_window_or_recompute_is_refused_with_its_range(window, recompute, said):
    with pytest.raises(ValueError, match=said):
        StreamingEncoder(SMALL, window, recompute)


def test_wrong_input_size_is_refused_with_both_shapes(encoder):
    with pytest.raises(ValueError, match=r"\(2, 3, 64, 64\); tiny takes \(2, 3, 128, 128\)"):
        encoder.embed(torch.zeros(2, 3, 64, 64))
