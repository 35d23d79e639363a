"""Floor of a step's time: its arithmetic and its memory traffic, over this machine's measured rates."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from saccade_ros.backends.torch_backend import DTYPES
from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.kernels import pack_linears
from saccade_ros.encoder.linear import Linear
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.measure.timing import interleave, spread


@dataclass(frozen=True)
class Work:
    """Least work of one step, however it is written.

    Attributes:
        linear_flops, attention_flops: of matrix products, two per multiply-add.
        bytes: weights, and the cache's keys and values, each read once.
    """

    linear_flops: float
    attention_flops: float
    bytes: float

    @property
    def flops(self) -> float:
        """Sum of both."""
        return self.linear_flops + self.attention_flops


def step_work(
    spec: ModelSpec,
    window: int,
    recompute: int,
    batch: int,
    precision: str,
    share: float = 1.0,
    merge: int = 0,
    areas: Areas | None = None,
) -> Work:
    """Count the work of one cached step of `batch` streams on full rings, the patch embedding left out.

    Args:
        share: of the tokens, that are computed.
        merge: tokens that each layer merges, after its attention and before its MLP; only with a share of 1.
        areas: what the first layers attend by; None: all layers attend to everything.
    """
    counts, passes = spec.token_counts(merge), batch * recompute * round(share * spec.tokens) / spec.tokens
    projected, left = sum(counts[:-1]), sum(counts[1:])
    of_projections, of_mlp = 4 * spec.width**2, 2 * spec.width * spec.mlp_width
    met = [1.0] * spec.depth if areas is None else [areas.attended] * areas.layers + [1.0] * (spec.depth - areas.layers)
    attention = sum(4 * passes * n * window * n * spec.width * part for n, part in zip(counts, met, strict=False))
    cache = batch * 2 * window * projected * spec.width
    of_cache = DTYPES[precision].itemsize
    of_weight = 1 if precision == "int8" else of_cache
    weights = spec.depth * (of_projections + of_mlp)
    linear = 2.0 * passes * (projected * of_projections + left * of_mlp)
    return Work(linear, float(attention), float(of_weight * weights + of_cache * cache))


@dataclass(frozen=True)
class Rates:
    """Best case of a machine: FLOP/s of large matrix products, byte/s read and written by a copy."""

    linear_flops: float
    attention_flops: float
    bytes: float

    def floor_ms(self, work: Work) -> float:
        """Return the least time for this work, if arithmetic and memory overlap wholly."""
        arithmetic_s = work.linear_flops / self.linear_flops + work.attention_flops / self.attention_flops
        return 1e3 * max(arithmetic_s, work.bytes / self.bytes)


def measure_rates(device: torch.device, precision: str, synchronize: Callable[[], object] | None) -> Rates:
    """Time products of 512 rows the size of ViT-L's MLP, and a copy far larger than any cache; medians.

    Args:
        synchronize: as interleave takes it.
    """
    block = torch.empty(256 * 2**20, dtype=torch.uint8, device=device)
    copied = torch.empty_like(block)
    copy_ms = spread(interleave({"copy": lambda: copied.copy_(block)}, 5, synchronize=synchronize)["copy"]).median
    linear_ms = _product_ms(device, DTYPES[precision], precision == "int8", synchronize)
    attention_ms = _product_ms(device, DTYPES[precision], False, synchronize) if precision == "int8" else linear_ms
    flops = 2.0 * 512 * 1024 * 4096
    return Rates(flops / linear_ms * 1e3, flops / attention_ms * 1e3, 2.0 * block.nbytes / copy_ms * 1e3)


@torch.inference_mode()
def _product_ms(
    device: torch.device, dtype: torch.dtype, int8: bool, synchronize: Callable[[], object] | None
) -> float:
    """Time of a product by torch and as the step's layers compute it: the faster of both."""
    x = torch.randn(512, 1024, device=device).to(dtype)
    weight = torch.randn(4096, 1024, device=device).to(dtype)
    layers = nn.Sequential(Linear(1024, 4096)).to(device)
    if device.type == "cpu" or int8:
        pack_linears(layers, dtype, rows=len(x), int8=int8)
    layers.to(dtype)
    ways: dict[str, Callable[[], object]] = {"layers": lambda: layers(x)}
    if not int8:
        ways["torch"] = lambda: x @ weight.t()
    warm_ms = interleave(ways, 2, synchronize=synchronize)
    repeats = {way: int(min(max(3, 1000 // min(warm_ms[way])), 9)) for way in ways}  # seconds each without bf16 or int8
    times_ms = interleave(ways, 1, repeats=repeats, synchronize=synchronize)  # each way at its best: not in turns
    return min(spread(times).median for times in times_ms.values())
