"""Packed linear layers compute what unpacked ones do."""

import pytest
import torch
import torch.nn.functional as F

from saccade_ros.encoder.linear import Linear, PackedLinear, pack_linears

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bf16 arithmetic on this processor"
)


@pytest.fixture
def linear() -> Linear:
    torch.manual_seed(0)
    return Linear(96, 160).bfloat16()


@pytest.mark.parametrize("rows", [64, 32])  # as packed for, and another number
def test_every_ending_is_that_of_the_plain_layer_to_bf16_rounding(linear, rows):
    packed = PackedLinear(linear, rows=64)
    x = torch.randn(rows, 96).bfloat16()
    exact = F.linear(x.double(), linear.weight.double(), linear.bias.double())
    with torch.inference_mode():
        for got, expected in ((packed(x), exact), (packed.gelu(x), F.gelu(exact))):
            assert got.dtype == torch.bfloat16
            assert (got.double() - expected).norm() / expected.norm() < 0.004


def test_packing_replaces_every_linear_of_a_module(linear):
    module = torch.nn.Sequential(linear, torch.nn.ModuleDict({"inner": Linear(4, 4).bfloat16()}))
    pack_linears(module, rows=8)
    assert not any(isinstance(part, Linear) for part in module.modules())
    assert sum(isinstance(part, PackedLinear) for part in module.modules()) == 2
