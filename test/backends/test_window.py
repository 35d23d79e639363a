"""The host's tables of an exported step: sizes of the cache, and rotations that need no key to be touched again."""

import numpy as np
import pytest

from saccade_ros.backends.window import INVALID, StepShape, WindowTables, empty_keys
from saccade_ros.encoder.positions import depth_angles, pair_partners
from saccade_ros.encoder.spec import SIZES, ModelSpec


def small(**changes) -> ModelSpec:
    return ModelSpec("small", **{"width": 64, "depth": 1, "heads": 1, "input_size": 32, **changes})  # E 64, S 4


def stored(tables: WindowTables, keys: np.ndarray, count: int) -> np.ndarray:
    """Cached keys (S, K) of plain ones (S, 64), as the graph makes them for tubelet number `count`, r = 1."""
    shape, at = tables.shape, tables.at(count)
    own, partner = np.zeros((2, len(keys), shape.key_width), np.float32)
    for laid_out, source in ((own, keys), (partner, keys[:, pair_partners(64)])):
        laid_out[:, :64], laid_out[:, shape.derivative] = source, source[:, :20]
    return own * at.key_cos + partner * at.key_sin


@pytest.mark.parametrize("rope", ["tiled", "interleaved"])
@pytest.mark.parametrize("count", [0, 2, 7, 10_000_019])
def test_split_rotation_is_the_rotation(rope, count):
    """u and v give a key at its window position, for both layouts, at any age."""
    tables = WindowTables(StepShape(small(rope=rope), window=4))
    keys = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    angle, sign = depth_angles(tables.shape.spec, np.array([min(count, 3)]), "float64")
    depth = keys[:, :20]
    expected = depth * np.cos(angle) + depth[:, pair_partners(20)] * np.sin(angle) * sign
    read = tables.read_keys(stored(tables, keys, count), count + 1)
    assert np.abs(read[:, :20] - expected).max() <= 1e-5


@pytest.mark.parametrize("count", [2, 7])
def test_sparse_step_has_the_rows_of_its_tokens_and_says_which_it_keeps(count):
    tables, token_idx = WindowTables(StepShape(small(), window=4)), np.array([1, 3])
    dense, sparse = tables.at(count), tables.at(count, token_idx)
    for name in ("query_cos", "query_sin", "key_cos", "key_sin"):
        assert np.array_equal(getattr(sparse, name), getattr(dense, name)[token_idx])
    assert sparse.select.tolist() == [0, 4, 2, 5]
    assert dense.select.tolist() == [4, 5, 6, 7]
    assert (sparse.slots.tolist(), sparse.previous_slot) == ([count % 4], (count - 1) % 4)


@pytest.mark.parametrize(("window", "recompute", "possible"), [(2, 1, True), (1, 1, False), (4, 2, False)])
def test_sparse_steps_need_the_slot_before_and_one_tubelet_a_step(window, recompute, possible):
    assert StepShape(small(), window, recompute).can_be_sparse == possible


def test_rows_of_a_young_streams_missing_tubelets_are_invalid():
    tables = WindowTables(StepShape(small(), window=4, recompute=3))
    for count, size in ((0, 1), (1, 2), (2, 3), (9, 3)):
        at = tables.at(count)
        valid = at.key_offset.reshape(3, 4, -1)[..., tables.shape.validity] == 0
        assert at.size == size
        assert valid.all(axis=1).tolist() == [j >= 3 - size for j in range(3)]
        assert at.key_offset.min() == (0 if size == 3 else INVALID)
        assert all(np.isfinite(factors).all() for factors in (at.query_cos, at.query_sin, at.key_cos, at.key_sin))


def test_an_empty_cache_has_no_valid_slot():
    shape = StepShape(small(), window=4)
    keys = empty_keys(shape, 0)
    assert keys.shape == shape.keys(0) == (1, 1, 16, 88)
    assert (keys[..., shape.validity] == INVALID).all()
    assert np.count_nonzero(keys) == 16


def test_sizes_of_vitl_are_as_documented():
    """A key is 64 channels, 20 of the derivative, one of validity, rounded up to 88."""
    shape = StepShape(SIZES["vitl"], window=8)
    assert (shape.validity, shape.key_width) == (84, 88)
    assert (shape.keys(0), shape.values(0)) == ((1, 16, 2048, 88), (1, 16, 2048, 64))
    assert shape.cache_bytes(2) == 2 * 24 * 16 * 2048 * (88 + 64) + 4 * (2 * 256 + 8) * 1024


def test_merging_gives_each_layer_its_own_slots_and_one_row_of_depth_to_all_tokens():
    shape = StepShape(SIZES["tiny"], window=4, merge=8)  # 64, 56, 48, 40 tokens, 32 left
    assert [shape.keys(layer)[2] for layer in range(4)] == [4 * 64, 4 * 56, 4 * 48, 4 * 40]
    assert shape.cache_bytes(2) == 2 * 3 * 4 * (64 + 56 + 48 + 40) * (88 + 64) + 4 * (64 + 32 + 4) * 192
    assert not shape.can_be_sparse
    merged, plain = WindowTables(shape).at(6), WindowTables(StepShape(SIZES["tiny"], window=4)).at(6)
    depth = [*range(20), *range(64, 84)]  # channels of u and v
    for name in ("query_cos", "query_sin", "key_cos", "key_sin"):
        assert getattr(merged, name).shape == (1, 88)
        assert np.array_equal(getattr(merged, name)[0, depth], getattr(plain, name)[5, depth])
    with pytest.raises(ValueError, match="merge 8 with recompute 2"):
        StepShape(SIZES["tiny"], window=4, recompute=2, merge=8)


@pytest.mark.parametrize(("window", "recompute", "said"), [(33, 1, "window 33 is outside 1..32"), (4, 5, "1..4")])
def test_a_step_that_the_encoder_cannot_do_is_refused(window, recompute, said):
    with pytest.raises(ValueError, match=said):
        StepShape(small(), window, recompute)
