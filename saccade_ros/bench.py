"""Speed of the cached step against what it replaces, measured side by side in one run.

The baseline is honest: transformers' encoder alone (no predictor), with SDPA, over a window as long as the cache, at
the same precision and with the same threads, in turn with ours so that a change of the machine's speed hits both.
"""

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from saccade_ros.backends.torch_backend import DTYPES
from saccade_ros.encoder.ring import RingCache
from saccade_ros.encoder.spec import ModelSpec
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.machine import describe_machine

STEPS_PER_ROUND = 5


def bench_step(model: str, window: int, lookback: int, precision: str, threads: int, rounds: int) -> dict[str, Any]:
    """Time one cached step on a full ring, and one full re-encode of the window.

    Returns:
        A JSON-ready result: both medians in ms, their ratio, memory, and the machine.
    """
    if threads:
        torch.set_num_threads(threads)
    dtype = DTYPES[precision]
    loaded = load_encoder(model, window, lookback)
    encoder = loaded.encoder.place(torch.device("cpu"), dtype)
    spec, ring = encoder.spec, encoder.new_ring()
    clip = torch.randn(window, 2, 3, spec.input_size, spec.input_size, generator=torch.Generator().manual_seed(0))
    patches = [encoder.embed(tubelet) for tubelet in clip]

    def step() -> None:
        encoder.step([patches[ring.count % window]], [ring])

    def embed() -> None:
        encoder.embed(clip[0])

    with Progress(transient=True) as progress:
        task = progress.add_task("filling the ring", total=window + 2 + rounds)
        for _ in range(window + 2):
            step()
            progress.advance(task)
        alone_mb = _peak_rss_mb()
        progress.update(task, description="loading transformers")
        reencode = _reencoder(model, spec, clip, dtype)
        reencode()
        cached: list[float] = []
        full: list[float] = []
        embedding: list[float] = []
        progress.update(task, description="measuring")
        for _ in range(rounds):
            cached += [_time_ms(step) for _ in range(STEPS_PER_ROUND)]
            embedding += [_time_ms(embed) for _ in range(STEPS_PER_ROUND)]
            full.append(_time_ms(reencode))
            progress.advance(task)

    return {
        "bench": "step",
        "model": model,
        "weights": loaded.source,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "input_size": spec.input_size,
        "window": window,
        "lookback": lookback,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "cached_step_ms": _spread(cached),
        "patch_embed_ms": _spread(embedding),
        "full_reencode_ms": _spread(full),
        "speedup": statistics.median(full) / statistics.median(cached),
        "cache_mb": RingCache.bytes_needed(spec, window, lookback, dtype.itemsize) / 1e6,
        "peak_rss_mb": {"cached_alone": alone_mb, "with_transformers": _peak_rss_mb()},
        "machine": describe_machine(),
        "torch": torch.__version__,
    }


def _reencoder(model: str, spec: ModelSpec, clip: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """transformers' encoder over the whole window; for a size, with random weights of that size."""
    from transformers import VJEPA2Config, VJEPA2Model

    if Path(model).is_dir():
        reference = VJEPA2Model.from_pretrained(model, attn_implementation="sdpa")
    else:
        config = VJEPA2Config(
            hidden_size=spec.width,
            num_hidden_layers=spec.depth,
            num_attention_heads=spec.heads,
            crop_size=spec.input_size,
            mlp_ratio=spec.mlp_width / spec.width,
        )
        reference = VJEPA2Model._from_config(config, attn_implementation="sdpa")
    reference.to(dtype=dtype).eval()
    frames = clip.flatten(0, 1)[None].to(dtype)  # (1, 2W, 3, H, W)

    @torch.inference_mode()
    def reencode() -> None:
        reference(frames, skip_predictor=True)

    return reencode


def _time_ms(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1e3


def _spread(times_ms: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times_ms), "min": min(times_ms), "max": max(times_ms), "runs": len(times_ms)}


def _peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # Linux counts in KiB
