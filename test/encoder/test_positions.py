"""The one definition of a step's positions: against formulas written another way, and read by every kind of step."""

import numpy as np
import pytest
import torch
from reference_model import random_clip
from transformers.models.vjepa2.modeling_vjepa2 import rotate_queries_or_keys

from saccade_ros.backends.onnx_backend import OnnxState, open_session
from saccade_ros.backends.window import WindowTables
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder import positions
from saccade_ros.encoder.positions import (
    ChannelAngles,
    StepIndices,
    channel_angles,
    depth_angles,
    filled_slots,
    head_parts,
    pair_partners,
    pair_signs,
    patch_angles,
    patch_positions,
)
from saccade_ros.encoder.spec import SIZES, ModelSpec
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.export.graph import build_step, step_shape
from saccade_ros.train.stream import stream_tokens

SMALL = ModelSpec("small", width=192, depth=1, heads=3, input_size=64)  # E 64, grid 4
STRETCHED = ModelSpec("stretched", width=192, depth=1, heads=3, input_size=384, rope="interleaved", rope_grid=16)


def rotated(x: np.ndarray, channels: ChannelAngles) -> np.ndarray:
    """Rotate channels (.., channels) as the docstring of ChannelAngles says."""
    partner = channels.sign * x[..., pair_partners(x.shape[-1])]
    return x * np.cos(channels.angle) + partner * np.sin(channels.angle)


def by_channel(x: np.ndarray, position: float, layout: str) -> list[float]:
    """Channel by channel from the formula in the module's docstring."""
    width = len(x)
    angles = [position / 10000 ** (2 * i / width) for i in range(width // 2)]
    out = []
    for channel in range(width):
        angle = angles[channel % (width // 2)] if layout == "tiled" else angles[channel // 2]
        partner = -x[channel + 1] if channel % 2 == 0 else x[channel - 1]
        out.append(float(x[channel] * np.cos(angle) + partner * np.sin(angle)))
    return out


# Angles


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["tiled", "interleaved"])
@pytest.mark.parametrize("position", [0, 1, 7, 31])
def test_rotation_follows_the_formula_channel_by_channel(layout, position, dtype):
    x = np.random.default_rng(1).standard_normal(20)
    channels = ChannelAngles(channel_angles(np.array([position]), 20, layout, dtype), pair_signs(20, dtype))
    assert channels.angle.dtype == channels.sign.dtype == dtype
    assert rotated(x, channels)[0].tolist() == pytest.approx(by_channel(x, position, layout), abs=1e-5)


def test_tiled_rotation_is_transformers_own():
    x, position = torch.randn(1, 1, 32, 20, generator=torch.Generator().manual_seed(1)), torch.arange(32)
    channels = ChannelAngles(channel_angles(position.numpy(), 20, "tiled", "float32"), pair_signs(20, "float32"))
    expected = rotate_queries_or_keys(x, position.float()[None, None])[0, 0].numpy()
    assert np.abs(rotated(x[0, 0].numpy(), channels) - expected).max() <= 1e-5


@pytest.mark.parametrize(("size", "rope_width"), [("vitl", 20), ("vith", 26), ("vitg", 20)])
def test_each_part_is_a_third_of_the_head_rounded_down_to_pairs(size, rope_width):
    spec = SIZES[size]
    assert spec.rope_width == rope_width
    assert head_parts(spec) == tuple(slice(i * rope_width, (i + 1) * rope_width) for i in range(3))


def test_a_patch_is_rotated_by_its_row_and_its_column_and_nothing_else():
    angle, sign = patch_angles(SMALL, "float64")
    parts, patch = head_parts(SMALL), 4 * 3 + 1  # row 3, column 1
    rotated_channels = np.r_[parts.height, parts.width]
    rest = np.setdiff1d(np.arange(SMALL.head_width), rotated_channels)
    for part, position in ((parts.height, 3), (parts.width, 1)):
        assert np.array_equal(angle[patch, part], channel_angles(np.array([position]), 20, "tiled", "float64")[0])
    assert not angle[:, rest].any()
    assert not sign[rest].any()
    assert np.array_equal(np.abs(sign[rotated_channels]), np.ones(40))


def test_rows_and_columns_are_stretched_over_the_rotary_grid_and_time_is_not():
    """V-JEPA 2.1 at 384 px: 24 patches a side on the positions 0..15 of 256 px."""
    rows, columns = (part.reshape(24, 24) for part in patch_positions(STRETCHED, "float64"))
    assert np.allclose(rows[:, 5], np.linspace(0, 15, 24))
    assert np.allclose(columns[7], np.linspace(0, 15, 24))
    angle = depth_angles(STRETCHED, np.arange(3), "float64").angle
    assert np.array_equal(angle[:, 0], [0.0, 1.0, 2.0])


# Indices


@pytest.mark.parametrize(("window", "recompute"), [(1, 1), (3, 1), (3, 2), (4, 4), (8, 3)])
def test_indices_are_those_of_a_ring_that_is_written_tubelet_by_tubelet(window, recompute):
    ring: dict[int, int] = {}  # slot -> tubelet
    for newest in range(3 * window + 2):
        ring[newest % window] = newest
        seen = sorted(ring.values())
        step = StepIndices(newest, window, recompute)
        assert (step.fill, step.oldest) == (len(seen), seen[0])
        assert [int(i) for i in step.slot_tubelet_idx[: step.fill]] == [ring[slot] for slot in range(len(ring))]
        assert (step.slot_tubelet_idx[step.fill :] < 0).all()
        positions_seen = [min(newest, window - 1) - (newest - tubelet) for tubelet in seen]
        assert step.positions(np.array(seen)).tolist() == positions_seen == list(range(len(seen)))
        block = step.block_idx[step.block_mask]
        assert block.tolist() == list(range(max(0, newest - recompute + 1), newest + 1))
        assert len(block) == step.size
        assert len(step.block_idx) == recompute
        assert all(ring[slot] == tubelet for slot, tubelet in zip(step.slots(block), block, strict=True))
        assert filled_slots(newest + 1, window) == len(seen)


# One definition


@pytest.fixture(scope="module")
def outputs(checkpoint, tmp_path_factory):
    """The newest tokens of a stream, (T, S, D), by torch's ring, by an exported graph, and by training's pass."""
    folder = tmp_path_factory.mktemp("graph")

    def compute() -> list[np.ndarray]:
        encoder = load_encoder(str(checkpoint), 3).encoder
        patches = torch.stack([encoder.embed(tubelet) for tubelet in random_clip(8)])
        ring, shape = encoder.new_ring(), step_shape(encoder)
        (folder / "step.onnx").write_bytes(build_step(encoder, 1, "host").whole().SerializeToString())
        session = open_session(folder / "step.onnx", BackendConfig(device="cpu", threads=1), "cpu")
        state = OnnxState(session, shape, WindowTables(shape), EncoderConfig(), "cpu", "host")
        by_ring, by_graph = [], []
        for tubelet in patches:
            by_ring.append(encoder.step([tubelet], [ring])[0].tokens[-1].numpy())
            state.step(tubelet.numpy())
            by_graph.append(state.tokens[-1].copy())
        with torch.no_grad():
            return [np.stack(by_ring), np.stack(by_graph), stream_tokens(encoder, patches).numpy()]

    return compute


def reversed_positions(spec, dtype):
    """Rows and columns counted from the other corner."""
    return tuple(part[::-1] for part in patch_positions(spec, dtype))


MUTATIONS = {
    "angles": (positions, "channel_angles", lambda *given: 1.5 * channel_angles(*given)),
    "direction of rotation": (positions, "pair_signs", lambda *given: -pair_signs(*given)),
    "rows and columns": (positions, "patch_positions", reversed_positions),
    "window positions": (StepIndices, "shift", property(lambda step: step.window - 1 - step.newest)),  # young ones last
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_of_the_definition_breaks_torch_export_and_training_alike(outputs, monkeypatch, mutation):
    before = outputs()
    monkeypatch.setattr(*MUTATIONS[mutation])
    after = outputs()
    for ours, mutated in zip(before, after, strict=True):
        assert np.abs(mutated - ours).max() > 0.01 * np.abs(ours).max(), "the mutation shows"
        assert np.abs(mutated - after[0]).max() <= 1e-5 * np.abs(ours).max(), "and alike"
