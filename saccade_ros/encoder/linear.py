"""Linear layers with the GELU that may follow, and the packed forms that torch computes them in."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_INT8 = 127  # int8 without -128, so that it is symmetric


class Linear(nn.Linear):
    """nn.Linear that can end in a GELU."""

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of the layer's output."""
        output: Tensor = self(x)
        return F.gelu(output)


class PackedLinear(nn.Module):
    """A Linear in oneDNN's own weight layout, with the GELU fused.

    torch reorders a bf16 weight at every call; packed once, ViT-L's linear layers take 86 ms a step instead of 114. In
    fp32 they take 497 ms instead of 560 of torch's library, which also lacks AVX-512 on AMD. torch.compile freezes
    linear layers into the same operators.
    """

    def __init__(self, linear: Linear, dtype: torch.dtype, rows: int) -> None:
        super().__init__()
        self._bias = linear.bias.detach().to(dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), rows)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, in) -> (N, out)."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return result

    def gelu(self, x: Tensor) -> Tensor:
        """See Linear."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "gelu", [], "none")
        return result


class Int8Linear(nn.Module):
    """A Linear in int8 by torch: weights scaled by output channel and inputs by row at every call, sums in int32.

    torchao computes the same, but its forward formats the input as text to find out whether it is traced: on a GPU that
    waits in every layer and cannot be captured in a graph (torchao 0.18, kernel/intmm.py). It calls torch._int_mm, too.
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        weight, self._scales = quantize_rows(linear.weight.detach().float())
        self._weight, self._scales = weight.t(), self._scales.flatten()  # (in, out), (out,)
        self._bias = linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, in) -> (N, out)."""
        rounded, scales = quantize_rows(x.float())
        sums = torch._int_mm(rounded, self._weight)  # (N, out)
        return torch.addcmul(self._bias, sums * scales, self._scales).to(x.dtype)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of the layer's output."""
        return F.gelu(self(x))


def quantize_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round to int8, symmetric by row: (N, K) -> values (N, K) and the scales that they are multiples of, (N, 1)."""
    scales = values.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / MOST_INT8
    return (values / scales).round().to(torch.int8), scales
