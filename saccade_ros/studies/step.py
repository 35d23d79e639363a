"""The encoder's one benchmark: the cached step in every variant asked for, against transformers' re-encode.

Each step is shown beside its physical floor, so that the gap to the limit is visible, and beside its fidelity: the
centred cosine of its embeddings to those of the fp32 step, tubelet by tubelet over four windows of the clip.
"""

import itertools
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from saccade_ros.backends.torch_backend import DTYPES
from saccade_ros.config import Config
from saccade_ros.encoder.cuda_graph import GraphedEncoder
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.measure.machine import describe_machine
from saccade_ros.recordings.clip import read_tubelets
from saccade_ros.studies.floor import Rates, measure_rates, step_work
from saccade_ros.studies.reencoder import make_reencoder

STEPS_PER_ROUND = 10
FIDELITY_WINDOWS = 4
Result = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One way to run a step."""

    precision: str
    window: int
    recompute: int
    batch: int
    launch: str  # eager, or graph on a GPU


@dataclass(frozen=True)
class StepBench:
    """What to measure: every combination of these.

    Raises (from `run`):
        WeightsError, ValueError: the model, a window or a recompute cannot be used; says why.
    """

    model: str
    windows: Sequence[int]
    precisions: Sequence[str]
    recomputes: Sequence[int]
    batches: Sequence[int]
    device: str
    threads: int
    rounds: int
    clip: Path | None

    def run(self) -> Result:
        """Measure; returns a JSON-ready result."""
        if self.threads:
            torch.set_num_threads(self.threads)
        result: Result = {
            "bench": "step",
            "model": self.model,
            "device": _device_name(self.device),
            "threads": torch.get_num_threads(),
            "clip": self.clip.name if self.clip else "random noise",
            "machine": describe_machine(),
            "torch": torch.__version__,
            "rates": {precision: vars(self._rates(precision)) for precision in self.precisions},
            "windows": [],
        }
        with Progress(transient=True) as progress:
            for window in self.windows:
                result["windows"].append(_WindowRun(self, window, progress).measure(result))
        result["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # Linux counts in KiB
        return result

    def time_ms(self, run: Callable[[], object]) -> float:
        """Wall time of one call, with what it started on a GPU."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) * 1e3

    def variants(self, window: int) -> Iterator[Variant]:
        """Every combination for one window."""
        launches = ("eager", "graph") if self.device == "cuda" else ("eager",)
        for choice in itertools.product(self.precisions, self.recomputes, self.batches, launches):
            precision, recompute, batch, launch = choice
            yield Variant(precision, window, min(recompute, window), batch, launch)

    def _rates(self, precision: str) -> Rates:
        return measure_rates(torch.device(self.device), precision, self.time_ms)


class _WindowRun:
    """All variants of one window, and transformers' re-encode of it, measured in turns."""

    def __init__(self, bench: StepBench, window: int, progress: Progress) -> None:
        self._bench, self._window, self._progress = bench, window, progress
        self._device = torch.device(bench.device)
        self._encoders: dict[tuple[str, int], StreamingEncoder] = {}
        self._embedded: dict[tuple[str, int], Tensor] = {}
        spec = self._encoder("fp32", 1).spec
        self._clip = read_clip(bench.clip, FIDELITY_WINDOWS * window, spec.input_size)  # (T, 2, 3, H, W)

    def measure(self, result: Result) -> Result:
        bench = self._bench
        task = self._progress.add_task(f"window {self._window}: loading", total=None)
        variants = list(bench.variants(self._window))
        fidelity = {key: self._fidelity(*key) for key in sorted({(v.precision, v.recompute) for v in variants})}
        steps = {variant: self._prepare(variant) for variant in variants}
        spec = self._encoder("fp32", 1).spec
        result["weights"] = self._source
        clip, dtypes = self._clip[: self._window], {p: DTYPES[p] for p in bench.precisions if p != "int8"}
        reencoders = {p: make_reencoder(bench.model, spec, clip, self._device, d) for p, d in dtypes.items()}
        step_ms: dict[Variant, list[float]] = {variant: [] for variant in variants}
        full_ms: dict[str, list[float]] = {precision: [] for precision in reencoders}
        for reencode in reencoders.values():
            reencode()
        self._progress.update(task, description=f"window {self._window}: measuring", total=bench.rounds, completed=0)
        for _ in range(bench.rounds):
            for variant, step in steps.items():
                step_ms[variant] += [bench.time_ms(step) for _ in range(STEPS_PER_ROUND)]
            for precision, reencode in reencoders.items():
                full_ms[precision].append(bench.time_ms(reencode))
            self._progress.advance(task)
        self._progress.remove_task(task)
        return {
            "window": self._window,
            "reencode_ms": {precision: _spread(times) for precision, times in full_ms.items()},
            "steps": [self._row(v, step_ms[v], full_ms, result, fidelity[v.precision, v.recompute]) for v in variants],
        }

    def _encoder(self, precision: str, recompute: int) -> StreamingEncoder:
        key = precision, recompute
        if key not in self._encoders:
            loaded = load_encoder(self._bench.model, self._window, recompute)
            self._source = loaded.source
            self._encoders[key] = loaded.encoder.prepare(self._device, DTYPES[precision], int8=precision == "int8")
        return self._encoders[key]

    def _prepare(self, variant: Variant) -> Callable[[], object]:
        """A step of full rings, ready to be timed."""
        encoder = self._encoder(variant.precision, variant.recompute)
        run = GraphedEncoder(encoder).step if variant.launch == "graph" else encoder.step
        rings = [encoder.new_ring() for _ in range(variant.batch)]
        patches = [encoder.embed(tubelet) for tubelet in self._clip[: self._window]]
        turn = itertools.count()

        def step() -> object:
            return run([patches[next(turn) % len(patches)]] * variant.batch, rings)

        for _ in range(self._window + 2):
            step()
        return step

    def _fidelity(self, precision: str, recompute: int) -> Result:
        """Centred cosine to the fp32 step: mean and worst over the clip's tubelets."""
        exact, rounded = self._embeddings("fp32", recompute), self._embeddings(precision, recompute)
        centre = exact.mean(dim=0)
        cosine = torch.cosine_similarity(exact - centre, rounded - centre)  # (T,)
        return {"mean": float(cosine.mean()), "worst": float(cosine.min()), "tubelets": len(cosine)}

    def _embeddings(self, precision: str, recompute: int) -> Tensor:
        """Of every tubelet of the clip, computed once: (T, D)."""
        key = precision, recompute
        if key not in self._embedded:
            encoder = self._encoder(precision, recompute)
            ring = encoder.new_ring()
            outputs = [encoder.step([encoder.embed(tubelet)], [ring])[0] for tubelet in self._clip]
            self._embedded[key] = torch.stack([output.newest.float().cpu() for output in outputs])
        return self._embedded[key]

    def _row(
        self, variant: Variant, times: list[float], full_ms: dict[str, list[float]], result: Result, fidelity: Result
    ) -> Result:
        encoder = self._encoder(variant.precision, variant.recompute)
        work = step_work(encoder.spec, variant.window, variant.recompute, variant.batch, variant.precision)
        floor_ms = Rates(**result["rates"][variant.precision]).floor_ms(work)
        per_stream_ms = statistics.median(times) / variant.batch
        return {
            **vars(variant),
            "attention": type(encoder.attention).__name__,
            "linear": type(encoder.layers[0].fc1).__name__,
            "step_ms": _spread(times),
            "per_stream_ms": per_stream_ms,
            "speedup": {precision: statistics.median(full) / per_stream_ms for precision, full in full_ms.items()},
            "gflop": work.flops / 1e9,
            "mbyte": work.bytes / 1e6,
            "floor_ms": floor_ms,
            "over_floor": statistics.median(times) / floor_ms,
            "cache_mb": encoder.cache_bytes / 1e6,
            "centred_cosine": fidelity,
        }


def read_clip(path: Path | None, tubelets: int, size: int) -> Tensor:
    """The first tubelets of a clip, repeated if it is shorter; noise without one: (T, 2, 3, size, size)."""
    if path is None:
        return torch.randn(tubelets, 2, 3, size, size, generator=torch.Generator().manual_seed(0))
    read = torch.from_numpy(read_tubelets(path, Config(), size, tubelets))
    return read[torch.arange(tubelets) % len(read)]


def print_table(result: Result) -> None:
    """The result for people."""
    console = Console()
    for part in result["windows"]:
        full = part["reencode_ms"]
        title = f"{result['model']}, window {part['window']}, {result['device']}, {result['threads']} threads"
        table = Table(title=f"{title}: per stream and tubelet")
        table.add_column("step", no_wrap=True)
        for name in ("ms", "floor", "x floor", *(f"x {p}" for p in full), "cosine", "worst"):
            table.add_column(name, justify="right")
        for row in part["steps"]:
            cosine, floor_ms = row["centred_cosine"], row["floor_ms"] / row["batch"]
            table.add_row(
                _name(row),
                *(f"{ms:.2f}" if ms < 10 else f"{ms:.0f}" for ms in (row["per_stream_ms"], floor_ms)),
                *(f"{ratio:.1f}" for ratio in (row["over_floor"], *row["speedup"].values())),
                *(f"{cosine[name]:.5f}" for name in ("mean", "worst")),
            )
        console.print(table)
        for precision, spread in full.items():
            console.print(f"  x {precision}: transformers' re-encode of the window, {spread['median']:.0f} ms")
    for precision, rates in result["rates"].items():
        products, copy = rates["linear_flops"] / 1e9, rates["bytes"] / 1e9
        console.print(f"  {precision}: large product {products:.0f} GFLOP/s, copy {copy:.0f} GB/s")
    machine, versions = result["machine"], f"torch {result['torch']}; clip: {result['clip']}"
    console.print(
        f"  peak memory {result['peak_rss_mb']:.0f} MB; {result['weights']}; {machine}; {versions}", style="dim"
    )


def _name(row: Result) -> str:
    """A variant in a word or two: what differs from one eager causal step of one stream."""
    parts = [row["precision"]]
    parts += [f"recompute {row['recompute']}"] if row["recompute"] > 1 else []
    parts += [f"{row['batch']} streams"] if row["batch"] > 1 else []
    parts += [row["launch"]] if row["launch"] != "eager" else []
    return ", ".join(parts)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def _spread(times_ms: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times_ms), "min": min(times_ms), "max": max(times_ms), "runs": len(times_ms)}
