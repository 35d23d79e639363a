"""The residual stream: kept in fp32 at every precision, normalised into the precision that the layers compute in.

In bf16 its sums would lose what single layers add.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualNorm(nn.LayerNorm):
    """Layer norm of the residual stream, after an update is added to it. Weights are fp32; `dtype` is the output's."""

    dtype = torch.float32

    def prepare(self, dtype: torch.dtype) -> None:
        """Keep the weights in fp32, whatever the rest of the model was moved to, and return norms in `dtype`."""
        self.to(torch.float32)
        self.dtype = dtype

    def forward(self, residual: Tensor, update: Tensor | None = None) -> Tensor:
        """residual, (N, D) in fp32, becomes residual + update; returns its layer norm, (N, D)."""
        if update is not None:
            residual += update
        return F.layer_norm(residual, self.normalized_shape, self.weight, self.bias, self.eps).to(self.dtype)
