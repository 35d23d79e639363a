"""How fast a step could be: its arithmetic and its memory traffic, over what this machine was measured to do."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from saccade_ros.backends.torch_backend import DTYPES
from saccade_ros.encoder.amx import quantize_rows
from saccade_ros.encoder.spec import ModelSpec


@dataclass(frozen=True)
class Work:
    """What one step must do, however it is written.

    Attributes:
        linear_flops, attention_flops: of matrix products, two per multiply-add.
        bytes: weights, and the cache's keys and values, each read once.
    """

    linear_flops: float
    attention_flops: float
    bytes: float

    @property
    def flops(self) -> float:
        """All of them."""
        return self.linear_flops + self.attention_flops


def step_work(spec: ModelSpec, window: int, lookback: int, batch: int, precision: str) -> Work:
    """Work of one cached step of `batch` streams on full rings, the patch embedding left out."""
    rows = batch * lookback * spec.tokens
    weights = spec.depth * (4 * spec.width**2 + 2 * spec.width * spec.mlp_width)
    attention = spec.depth * 4 * rows * window * spec.tokens * spec.width
    cache = batch * spec.depth * 2 * window * spec.tokens * spec.width
    of_cache = DTYPES[precision].itemsize
    of_weight = 1 if precision == "int8" else of_cache
    return Work(2.0 * rows * weights, float(attention), float(of_weight * weights + of_cache * cache))


@dataclass(frozen=True)
class Rates:
    """What the machine does in the best case: FLOP/s of large matrix products, byte/s read and written by a copy."""

    linear_flops: float
    attention_flops: float
    bytes: float

    def floor_ms(self, work: Work) -> float:
        """Least time for this work, if arithmetic and memory overlap wholly."""
        arithmetic_s = work.linear_flops / self.linear_flops + work.attention_flops / self.attention_flops
        return 1e3 * max(arithmetic_s, work.bytes / self.bytes)


def measure_rates(device: torch.device, precision: str, time_ms: Callable[[Callable[[], object]], float]) -> Rates:
    """Medians of torch's 2048-row product the size of ViT-L's MLP, and of a copy far larger than any cache."""
    x, weight = (torch.randn(size, device=device).to(DTYPES[precision]) for size in ((2048, 1024), (4096, 1024)))
    block = torch.empty(256 * 2**20, dtype=torch.uint8, device=device)
    copied = torch.empty_like(block)
    product_ms = statistics.median(time_ms(lambda: x @ weight.t()) for _ in range(9))
    linear_ms = product_ms
    if precision == "int8":
        x, weight = (quantize_rows(part.float())[0] for part in (x, weight))
        linear_ms = statistics.median(time_ms(lambda: torch._int_mm(x, weight.t())) for _ in range(9))
    copy_ms = statistics.median(time_ms(lambda: copied.copy_(block)) for _ in range(5))
    flops = 2.0 * 2048 * 1024 * 4096
    return Rates(flops / linear_ms * 1e3, flops / product_ms * 1e3, 2.0 * block.nbytes / copy_ms * 1e3)
