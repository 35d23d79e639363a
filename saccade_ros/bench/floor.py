"""How fast a step could be: its arithmetic and its memory traffic, over what this machine was measured to do."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from saccade_ros.encoder.spec import ModelSpec


@dataclass(frozen=True)
class Work:
    """What one step must do, however it is written.

    Attributes:
        flops: of matrix products, two per multiply-add.
        bytes: weights, and the cache's keys and values, each read once.
    """

    flops: float
    bytes: float


def step_work(spec: ModelSpec, window: int, lookback: int, batch: int, bytes_per_value: int) -> Work:
    """Work of one cached step of `batch` streams on full rings, the patch embedding left out."""
    rows = batch * lookback * spec.tokens
    weights = spec.depth * (4 * spec.width**2 + 2 * spec.width * spec.mlp_width)
    attention = spec.depth * 4 * rows * window * spec.tokens * spec.width
    cache = batch * spec.depth * 2 * window * spec.tokens * spec.width
    return Work(2.0 * rows * weights + attention, float(bytes_per_value * (weights + cache)))


@dataclass(frozen=True)
class Rates:
    """What the machine does in the best case: FLOP/s of a large matrix product, byte/s read and written by a copy."""

    flops: float
    bytes: float

    def floor_ms(self, work: Work) -> float:
        """Least time for this work, if arithmetic and memory overlap wholly."""
        return 1e3 * max(work.flops / self.flops, work.bytes / self.bytes)


def measure_rates(device: torch.device, dtype: torch.dtype, time_ms: Callable[[Callable[[], object]], float]) -> Rates:
    """Medians of a 2048-row product the size of ViT-L's MLP, and of a copy far larger than any cache."""
    x, weight = (torch.randn(size, device=device).to(dtype) for size in ((2048, 1024), (4096, 1024)))
    block = torch.empty(256 * 2**20, dtype=torch.uint8, device=device)
    copied = torch.empty_like(block)
    product_ms = statistics.median(time_ms(lambda: x @ weight.t()) for _ in range(9))
    copy_ms = statistics.median(time_ms(lambda: copied.copy_(block)) for _ in range(5))
    return Rates(2.0 * 2048 * 1024 * 4096 / product_ms * 1e3, 2.0 * block.nbytes / copy_ms * 1e3)
