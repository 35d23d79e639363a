"""Linear layers with the GELU that may follow, and the packed forms that they are computed in."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade_ros.encoder.amx import AmxLinear, quantize_rows


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
    """A Linear in int8 by torch: as AmxLinear's, weights by output channel and inputs by row, sums in int32.

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


def pack_linears(module: nn.Module, dtype: torch.dtype, rows: int, int8: bool = False) -> None:
    """Replace each Linear below `module` by the fastest form there is for it where it lies, as measured (docs/log.md).

    Ours on AMX processors: ViT-L's linear layers take 72 ms a step in bf16, 370 in fp32 and 41 in int8; oneDNN's 92 and
    500 in the same runs. bf16 layers stay as they are where oneDNN would compute them with its slow reference.

    Args:
        dtype: of the layers' input and output.
        rows: of the inputs expected; oneDNN takes others too, slower.
        int8: weights and, inside, inputs in int8.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                setattr(parent, name, _packed(child, dtype, rows, int8))


def _packed(linear: Linear, dtype: torch.dtype, rows: int, int8: bool) -> nn.Module:
    on_cpu = linear.weight.device.type == "cpu"
    if on_cpu and AmxLinear.serves(linear, dtype):
        return AmxLinear(linear, dtype, int8)
    if int8:
        return Int8Linear(linear)
    bf16 = dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if on_cpu and torch.backends.mkldnn.is_available() and (bf16 or dtype == torch.float32):
        return PackedLinear(linear, dtype, rows)
    return linear
