"""Both layouts, pinned against definitions written another way."""

import pytest
import torch

from saccade_ros.encoder.rope import rotary_tables, rotate, rotation
from saccade_ros.encoder.spec import SIZES, ModelSpec


def by_channel(x: torch.Tensor, position: float, layout: str) -> list[float]:
    """Channel by channel from the formula in the docstring."""
    width = len(x)
    angles = [position / 10000 ** (2 * i / width) for i in range(width // 2)]
    out = []
    for channel in range(width):
        angle = torch.tensor(angles[channel % (width // 2)] if layout == "tiled" else angles[channel // 2])
        partner = -x[channel + 1] if channel % 2 == 0 else x[channel - 1]
        out.append(float(x[channel] * angle.cos() + partner * angle.sin()))
    return out


@pytest.mark.parametrize("layout", ["tiled", "interleaved"])
@pytest.mark.parametrize("position", [0, 1, 7, 31])
def test_rotation_follows_the_formula_channel_by_channel(layout, position):
    x = torch.randn(20, generator=torch.Generator().manual_seed(1))
    turned = rotate(x, rotation(torch.tensor([position]), 20, layout))[0]
    assert turned.tolist() == pytest.approx(by_channel(x, position, layout), abs=1e-5)


def test_interleaved_is_a_complex_rotation():
    x = torch.randn(20, generator=torch.Generator().manual_seed(1))
    turned = rotate(x, rotation(torch.tensor([5]), 20, "interleaved"))[0]
    angles = 5 / 10000 ** (torch.arange(10) / 10)
    expected = torch.view_as_real(torch.view_as_complex(x.view(10, 2)) * torch.polar(torch.ones(10), angles))
    assert torch.allclose(turned, expected.flatten(), atol=1e-5)


def shifted_scores(layout: str) -> torch.Tensor:
    """Scores of one query and key, both moved along by 0..9."""
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(20, generator=generator), torch.randn(20, generator=generator)
    positions = torch.arange(10)
    queries, keys = rotate(q, rotation(positions + 3, 20, layout)), rotate(k, rotation(positions, 20, layout))
    return (queries * keys).sum(-1)


def test_interleaved_scores_depend_on_differences_only():
    assert shifted_scores("interleaved").std() < 1e-5


def test_tiled_scores_depend_on_absolute_positions():
    """The quirk every V-JEPA 2 checkpoint was trained with; 'fixing' it would break them all."""
    assert shifted_scores("tiled").std() > 0.1


@pytest.mark.parametrize(("size", "rope_width"), [("vitl", 20), ("vith", 26), ("vitg", 20)])
def test_depth_part_is_a_third_of_the_head_rounded_down_to_pairs(size, rope_width):
    assert SIZES[size].rope_width == rope_width


def test_keys_are_stored_with_depth_and_rest_unrotated():
    spec = ModelSpec("small", width=192, depth=1, heads=3, input_size=64)
    tables = rotary_tables(spec, window=4)
    x = torch.randn(spec.tokens, spec.head_width)
    stored, w = rotate(x, tables.key), spec.rope_width
    assert torch.equal(stored[:, :w], x[:, :w])
    assert torch.equal(stored[:, 3 * w :], x[:, 3 * w :])
    assert not torch.allclose(stored[-1, w : 3 * w], x[-1, w : 3 * w])


def test_query_table_is_the_key_table_with_depth_added():
    spec = ModelSpec("small", width=192, depth=1, heads=3, input_size=64)
    tables = rotary_tables(spec, window=4)
    x = torch.randn(spec.tokens, spec.head_width)
    stored, w = rotate(x, tables.key), spec.rope_width
    for position in range(4):
        query = rotate(x, type(tables.query)(tables.query.cos[position], tables.query.sin[position]))
        depth = type(tables.depth)(tables.depth.cos[position], tables.depth.sin[position])
        assert torch.allclose(query, torch.cat([rotate(stored[:, :w], depth), stored[:, w:]], -1), atol=1e-6)
