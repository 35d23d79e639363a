"""The graph attends by area as torch does, in dense and sparse steps, by either contract."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from contracts import require_kernels
from reference_model import make_reference, random_clip, relative_error

from saccade_ros.backends.exported import step_feeds
from saccade_ros.backends.onnx_backend import OnnxState, open_session
from saccade_ros.backends.window import StepShape, WindowTables, empty_keys
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.export.graph import build_step, step_shape

ONE_THREAD = BackendConfig(device="cpu", threads=1)
LAYERS = 3  # of four
CORNER = np.array([0, 1, 8, 9, 10])  # in one area of 2x2, so that the others are empty


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_reference().save_pretrained(folder)
    return str(folder)


def by_area(checkpoint: str, window: int, recompute: int = 1, grid: tuple[int, int] = (2, 2)) -> StreamingEncoder:
    encoder = load_encoder(checkpoint, window, recompute).encoder
    return encoder.attend_by_area(Areas.of(encoder.spec, *grid, LAYERS))


def exported(encoder: StreamingEncoder, folder, contract: str) -> OnnxState:
    require_kernels(contract)
    build_step(encoder, 1, contract).save(folder / "step.onnx")
    onnx.checker.check_model(str(folder / "step.onnx"), full_check=True)
    shape, session = step_shape(encoder), open_session(folder / "step.onnx", ONE_THREAD, "cpu")
    return OnnxState(session, shape, WindowTables(shape), EncoderConfig(), "cpu", contract)


def plan(n: int) -> np.ndarray | None:
    """Tokens of tubelet n: all, some in each area, one corner of the picture, one token, or all but one."""
    draw = np.random.default_rng(n)
    some = [None, np.sort(draw.permutation(64)[:20]), CORNER, np.array([n % 64]), np.arange(1, 64)]
    return some[n % len(some)]


@pytest.mark.parametrize("contract", ["scatter", "host"])
@pytest.mark.parametrize(("window", "recompute"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("grid", [(2, 2), (3, 2)])
def test_dense_steps_are_torchs(checkpoint, tmp_path, contract, window, recompute, grid):
    encoder = by_area(checkpoint, window, recompute, grid)
    state, ring = exported(encoder, tmp_path, contract), encoder.new_ring()
    for n, tubelet in enumerate(random_clip(2 * window + 3)):
        patches = encoder.embed(tubelet)
        expected = encoder.step([patches], [ring])[0].tokens
        state.step(patches.numpy())
        assert relative_error(torch.from_numpy(state.tokens[-len(expected) :]), expected) <= 1e-4, n


@pytest.mark.parametrize("contract", ["scatter", "host"])
@pytest.mark.parametrize("grid", [(2, 2), (3, 2), (8, 8)])
def test_sparse_steps_are_torchs_with_an_empty_area(checkpoint, tmp_path, contract, grid):
    encoder = by_area(checkpoint, 3, grid=grid)
    state, ring = exported(encoder, tmp_path, contract), encoder.new_ring()
    counts = [encoder.areas.counts(chosen) for chosen in map(plan, range(11)) if chosen is not None]
    assert any(0 in some for some in counts)
    for n, tubelet in enumerate(random_clip(11)):
        patches, token_idx = encoder.embed(tubelet), plan(n)
        expected = encoder.step([patches], [ring], [token_idx])[0]
        vector = state.step(patches.numpy(), token_idx)
        assert relative_error(torch.from_numpy(state.tokens), expected.tokens) <= 1e-4, n
        assert relative_error(torch.from_numpy(vector), expected.newest) <= 1e-4, n


def test_the_graph_of_dense_steps_alone_is_the_same(checkpoint, tmp_path):
    """What TensorRT gets: no counts, every size static."""
    encoder = by_area(checkpoint, 3, grid=(3, 2))
    dense = onnxruntime.InferenceSession(build_step(encoder, 1, "host", steps="dense").whole().SerializeToString())
    takes = {wanted.name for wanted in dense.get_inputs()}
    assert "area_counts" not in takes
    either, tables = exported(encoder, tmp_path, "host"), WindowTables(step_shape(encoder))
    for n, tubelet in enumerate(random_clip(8)):
        patches, at = encoder.embed(tubelet).numpy(), tables.at(n)
        feeds = step_feeds(tables.shape, at, at.rows_of(patches[None])) | either.ring()
        (tokens,) = dense.run(["tokens"], {name: value for name, value in feeds.items() if name in takes})
        either.step(patches)
        assert relative_error(torch.from_numpy(tokens[0]), torch.from_numpy(either.tokens[-1][at.token_idx])) <= 1e-5


def test_areas_change_what_the_graph_computes(checkpoint, tmp_path):
    encoder, full = by_area(checkpoint, 2), load_encoder(checkpoint, 2).encoder
    ours, others = exported(encoder, tmp_path, "host"), exported(full, tmp_path, "host")
    patches = encoder.embed(random_clip(1)[0]).numpy()
    assert relative_error(torch.from_numpy(ours.step(patches)), torch.from_numpy(others.step(patches))) > 0.01


def padded(rows: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """Rows (M, .) in their places among `size` rows, of which the others are zeros."""
    filled = np.zeros((size, rows.shape[-1]), np.float32)
    filled[places] = rows
    return filled


def test_streams_of_a_batch_fill_up_each_area_by_itself(checkpoint):
    """Two streams with other plans in one call: an area has the rows of the stream that computes most of it."""
    encoder = by_area(checkpoint, 3)
    shape = step_shape(encoder, batch=2)
    areas, tables = shape.areas, WindowTables(shape)
    session = onnxruntime.InferenceSession(build_step(encoder, 2, "host").whole().SerializeToString())
    rings, clips = [encoder.new_ring() for _ in range(2)], [random_clip(8, seed) for seed in range(2)]
    cache = {f"keys_{i}": empty_keys(shape, i) for i in range(shape.spec.depth)}
    cache |= {f"values_{i}": np.zeros(shape.values(i), np.float32) for i in range(shape.spec.depth)}
    for n in range(8):
        plans = [plan(n), plan(n) if n % 5 == 0 else plan(n + 1)]
        plans = [np.arange(64) if chosen is None else chosen for chosen in plans] if n else [None, None]
        at = [tables.at(n, chosen) for chosen in plans]
        counts = np.max([t.area_counts for t in at], axis=0)  # (G,)
        starts = np.cumsum(counts) - counts
        place = [np.concatenate([starts[g] + np.arange(c) for g, c in enumerate(t.area_counts)]) for t in at]
        patches = [encoder.embed(clip[n]) for clip in clips]

        size, names = int(counts.sum()), ("query_cos", "query_sin", "key_cos", "key_sin")
        feeds = {k: np.stack([padded(getattr(t, k), p, size) for t, p in zip(at, place, strict=True)]) for k in names}
        rows = [p.numpy()[t.token_idx] for p, t in zip(patches, at, strict=True)]
        feeds["patches"] = np.stack([padded(r, p, size) for r, p in zip(rows, place, strict=True)])
        selects = [np.arange(64) for _ in at]
        for select, t, places in zip(selects, at, place, strict=True):
            select[areas.place_idx[t.token_idx]] = 64 + places
        feeds |= {"select": np.stack(selects), "area_counts": counts}
        feeds |= {"slots": np.stack([t.slots for t in at], axis=1)}
        feeds |= {"previous_slot": np.array([t.previous_slot for t in at])}
        out = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds | cache), strict=True))
        for name, ring in cache.items():
            by_slot = ring.reshape(*ring.shape[:2], shape.window, 64, -1)
            by_slot[:, :, at[0].slots[0]] = out[name.replace("_", "_new_")]
        for b, (expected, t) in enumerate(zip(encoder.step(patches, rings, plans), at, strict=True)):
            found = torch.from_numpy(out["tokens"][b, place[b]])
            assert relative_error(found, expected.tokens[-1][t.token_idx]) <= 1e-4, (n, b)


def test_the_shape_says_the_areas_and_refuses_impossible_ones(checkpoint):
    shape = step_shape(by_area(checkpoint, 3, grid=(3, 2)))
    assert shape.sizes == {
        "window": 3,
        "recompute": 1,
        "batch": 1,
        "merge": 0,
        "area_rows": 3,
        "area_columns": 2,
        "area_layers": 3,
    }
    assert StepShape(shape.spec, **shape.sizes).areas.token_idx.tolist() == shape.areas.token_idx.tolist()
    with pytest.raises(ValueError, match="merged tokens have no area"):
        StepShape(shape.spec, 3, merge=4, area_rows=2, area_layers=2)
    with pytest.raises(ValueError, match="give at most 4"):
        StepShape(shape.spec, 3, area_rows=2, area_layers=5)
