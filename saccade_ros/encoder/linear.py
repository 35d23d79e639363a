"""Linear layers with the GELU that may follow, and the packed forms that a CPU computes them in."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade_ros.encoder.amx import AmxLinear


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


def pack_linears(module: nn.Module, dtype: torch.dtype, rows: int, int8: bool = False) -> None:
    """Replace each Linear below `module` by the fastest form this CPU has for it, as measured (docs/log.md).

    Ours on AMX processors: ViT-L's linear layers take 72 ms a step in bf16, 370 in fp32 and 41 in int8; oneDNN's 92 and
    500 in the same runs. bf16 layers stay as they are where oneDNN would compute them with its slow reference.

    Args:
        dtype: of the layers' input and output.
        rows: of the inputs expected; oneDNN takes others too, slower.
        int8: weights and, inside, inputs in int8.

    Raises:
        ValueError: int8 where only our kernel has it.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                setattr(parent, name, _packed(child, dtype, rows, int8))


def _packed(linear: Linear, dtype: torch.dtype, rows: int, int8: bool) -> nn.Module:
    if AmxLinear.serves(linear, dtype):
        return AmxLinear(linear, dtype, int8)
    if int8:
        raise ValueError(
            "int8 needs a CPU with AMX and the kernels that colcon or pip builds, or a GPU: take bf16 or fp32, or run "
            "an int8 export on ONNX Runtime (saccade export)"
        )
    bf16 = dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if torch.backends.mkldnn.is_available() and (bf16 or dtype == torch.float32):
        return PackedLinear(linear, dtype, rows)
    return linear
