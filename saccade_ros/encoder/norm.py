"""The residual stream: kept in fp32 at every precision, normalised into the precision that the layers compute in.

In bf16 its sums would lose what single layers add, and fp32 costs nothing: sum and norm are one pass over memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade_ros.encoder.native import library


class ResidualNorm(nn.LayerNorm):
    """Adds an update to the residual stream and normalises it. Weights are fp32; `dtype` is the output's."""

    dtype = torch.float32

    def prepare(self, dtype: torch.dtype) -> None:
        """Keep the weights in fp32, whatever the rest of the model was moved to."""
        self.to(torch.float32)
        self.dtype = dtype
        native = library() if self.weight.device.type == "cpu" and self.normalized_shape[0] % 16 == 0 else None
        if native and native.saccade_norm_available():
            self._native = {
                torch.bfloat16: native.saccade_add_norm_bf16,
                torch.float32: native.saccade_add_norm_fp32,
            }.get(dtype)

    _native = None

    def forward(self, residual: Tensor, update: Tensor | None = None) -> Tensor:
        """residual, (N, D) in fp32, becomes residual + update; returns its layer norm, (N, D)."""
        if self._native:
            out = torch.empty(residual.shape, dtype=self.dtype)
            sizes = (torch.get_num_threads(), *residual.shape, self.eps)
            arrays = (residual, update, self.weight, self.bias, out)
            self._native(*sizes, *(None if array is None else array.data_ptr() for array in arrays))
            return out
        if update is not None:
            residual += update
        return F.layer_norm(residual, self.normalized_shape, self.weight, self.bias, self.eps).to(self.dtype)
