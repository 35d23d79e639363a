"""Torch's rotations: what they leave alone, and what a score depends on. Their angles are tested in test_positions."""

import numpy as np
import torch

from saccade_ros.encoder.positions import ChannelAngles, channel_angles, pair_signs
from saccade_ros.encoder.rope import Rotation, rotary_tables, rotate, rotation, rotation_matrix
from saccade_ros.encoder.spec import ModelSpec

SMALL = ModelSpec("small", width=192, depth=1, heads=3, input_size=64)


def rotation_at(positions: list[int], layout: str) -> Rotation:
    """Rotation of 20 channels at each position."""
    angle = channel_angles(np.array(positions), 20, layout, "float32")
    return rotation(ChannelAngles(angle, pair_signs(20, "float32")))


def test_interleaved_is_a_complex_rotation():
    x = torch.randn(20, generator=torch.Generator().manual_seed(1))
    rotated = rotate(x, rotation_at([5], "interleaved"))[0]
    angles = 5 / 10000 ** (torch.arange(10) / 10)
    expected = torch.view_as_real(torch.view_as_complex(x.view(10, 2)) * torch.polar(torch.ones(10), angles))
    assert torch.allclose(rotated, expected.flatten(), atol=1e-5)


def shifted_scores(layout: str) -> torch.Tensor:
    """Scores of one query and key, both moved along by 0..9."""
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(20, generator=generator), torch.randn(20, generator=generator)
    queries = rotate(q, rotation_at(list(range(3, 13)), layout))
    keys = rotate(k, rotation_at(list(range(10)), layout))
    return (queries * keys).sum(-1)


def test_interleaved_scores_depend_on_differences_only():
    assert shifted_scores("interleaved").std() < 1e-5


def test_tiled_scores_depend_on_absolute_positions():
    """The quirk every V-JEPA 2 checkpoint was trained with; 'fixing' it would break them all."""
    assert shifted_scores("tiled").std() > 0.1


def test_rotation_matrix_rotates_the_first_channels_and_keeps_the_rest():
    by, x = rotation_at([0, 3], "tiled"), torch.randn(5, 32, generator=torch.Generator().manual_seed(3))
    for matrix, cos, sin in zip(rotation_matrix(by, 32), *by, strict=True):
        expected = torch.cat([rotate(x[:, :20], Rotation(cos, sin)), x[:, 20:]], -1)
        assert torch.allclose(x @ matrix, expected, atol=1e-6)


def test_keys_are_stored_with_depth_and_rest_unrotated():
    tables = rotary_tables(SMALL, window=4)
    x = torch.randn(SMALL.tokens, SMALL.head_width)
    stored, w = rotate(x, tables.key), SMALL.rope_width
    assert torch.equal(stored[:, :w], x[:, :w])
    assert torch.equal(stored[:, 3 * w :], x[:, 3 * w :])
    assert not torch.allclose(stored[-1, w : 3 * w], x[-1, w : 3 * w])


def test_query_table_is_the_key_table_with_depth_added():
    tables = rotary_tables(SMALL, window=4)
    x = torch.randn(SMALL.tokens, SMALL.head_width)
    stored, w = rotate(x, tables.key), SMALL.rope_width
    for position in range(4):
        query = rotate(x, Rotation(*(table[position] for table in tables.query)))
        depth = rotate(stored[:, :w], Rotation(*(table[position] for table in tables.depth)))
        assert torch.allclose(query, torch.cat([depth, stored[:, w:]], -1), atol=1e-6)
