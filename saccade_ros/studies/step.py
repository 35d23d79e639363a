"""Time of the cached step in every variant and runtime, against transformers' re-encode: `saccade bench step`.

Each step is shown beside its physical floor, so that the gap to the limit is visible, and a dense one beside its
fidelity: the centred cosine of its embeddings to those of the fp32 step, tubelet by tubelet over four windows of the
clip. What a sparse step costs in fidelity depends on the scene: `saccade bench economies` measures it.
"""

import itertools
import resource
import statistics
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from saccade_ros.backends.torch_backend import DTYPES
from saccade_ros.config import Config
from saccade_ros.encoder.cuda_graph import GraphedEncoder
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.weights import LoadedEncoder, load_encoder
from saccade_ros.knobs import ConfigError, Settings, knob
from saccade_ros.measure.metrics import centred_cosine, summarize
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head
from saccade_ros.measure.timing import interleave, spread
from saccade_ros.recordings.clip import read_tubelets
from saccade_ros.studies.floor import Rates, measure_rates, step_work
from saccade_ros.studies.full_cache import spread_evenly
from saccade_ros.studies.reencoder import make_reencoder
from saccade_ros.studies.step_runtimes import RuntimeStep, Served, load_steps, served_steps

STEPS_PER_ROUND = 10
FIDELITY_WINDOWS = 4


@dataclass(frozen=True)
class Options(Settings):
    """Variants to measure: every combination of windows, precisions, recomputes and batches."""

    model: str = knob("vitl", "Size with random weights, default, or checkpoint folder.")
    windows: tuple[int, ...] = knob((8,), "Tubelets in the cache (W).", at_least=1, metavar="W")
    precisions: tuple[str, ...] = knob(("fp32", "bf16"), "Arithmetic of the step.", choices=tuple(DTYPES))
    recomputes: tuple[int, ...] = knob((1,), "Newest tubelets recomputed in each step (r).", at_least=1, metavar="R")
    batches: tuple[int, ...] = knob((1,), "Streams in a step (B).", at_least=1, metavar="B")
    shares: tuple[float, ...] = knob(
        (),
        "Sparse steps beside the dense ones: shares of the tokens that they compute; 1.0 computes all by the sparse "
        "path.",
        at_least=0.001,
        at_most=1.0,
        metavar="SHARE",
    )
    runtimes: tuple[str, ...] = knob(
        (),
        "Runtimes beside torch, whose dense steps are measured in those of the precisions that they compute a "
        "checkpoint in.",
        choices=("onnxruntime", "openvino"),
    )
    exports: tuple[str, ...] = knob(
        (),
        "Folders that `saccade export` wrote of the same model and window: all in them is measured.",
        metavar="FOLDER",
    )
    device: str = knob("cpu", "Device of the encoder.", choices=("cpu", "cuda"))
    threads: int = knob(0, "CPU threads; 0 leaves torch's default.", at_least=0)
    rounds: int = knob(5, f"Rounds of {STEPS_PER_ROUND} steps and one re-encode each.", at_least=1)
    clip: str = knob("", "Bag or video to encode; empty: random noise.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device != "cpu" and (self.runtimes or self.exports):
            raise ConfigError("other runtimes are measured on the CPU: leave out --device, or --runtimes and --exports")


@dataclass(frozen=True)
class Variant:
    """One way to run a step. `launch` is eager, or graph on a GPU; `share` of the tokens, or dense without one."""

    precision: str
    window: int
    recompute: int
    batch: int
    launch: str
    share: float | None = None


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Measure all variants; return the record.

    Raises:
        WeightsError, ValueError: the model, a window or a recompute cannot be used; says why.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    progress("measuring the machine", 0.0)
    rates = {p: measure_rates(torch.device(options.device), p, _synchronize(options)) for p in options.precisions}
    windows, span = [], 1 / len(options.windows)
    for i, window in enumerate(options.windows):
        study = _WindowStudy(options, window, rates)
        windows.append(study.measure(subrange(progress, i * span, span)))
    return {
        "bench": "step",
        **record_head(study.loaded.source, study.loaded.sha256),
        "model": options.model,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "clip": Path(options.clip).name if options.clip else "random noise",
        "torch": torch.__version__,
        "rates": {precision: asdict(rate) for precision, rate in rates.items()},
        "windows": windows,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,  # Linux counts in KiB
    }


def _synchronize(options: Options) -> Callable[[], object] | None:
    return torch.cuda.synchronize if options.device == "cuda" else None


def variants(options: Options, window: int) -> Iterator[Variant]:
    """Yield every combination for one window."""
    launches = ("eager", "graph") if options.device == "cuda" else ("eager",)
    choices = itertools.product(options.precisions, options.recomputes, options.batches, launches)
    for precision, recompute, batch, launch in choices:
        yield Variant(precision, window, min(recompute, window), batch, launch)
        for share in options.shares if recompute == 1 else ():
            yield Variant(precision, window, 1, batch, launch, share)


class _WindowStudy:
    """All variants of one window, and transformers' re-encode of it, in interleaved timing."""

    loaded: LoadedEncoder

    def __init__(self, options: Options, window: int, rates: Mapping[str, Rates]) -> None:
        self._options, self._window, self._rates = options, window, rates
        self._device = torch.device(options.device)
        self._encoders: dict[tuple[str, int], StreamingEncoder] = {}
        self._embedded: dict[tuple[str, int], npt.NDArray[np.float32]] = {}
        self._spec = self._encoder("fp32", 1).spec
        self._clip = read_clip(options.clip, FIDELITY_WINDOWS * window, self._spec.input_size)  # (T, 2, 3, H, W)
        self._pixels = list(self._clip.numpy())  # the same, for runtimes that take NumPy arrays

    def measure(self, progress: Progress) -> dict[str, Any]:
        """Rows of this window."""
        progress(f"window {self._window}: loading", 0.0)
        chosen = list(variants(self._options, self._window))
        fidelity = {key: self._fidelity(*key) for key in sorted({(v.precision, v.recompute) for v in chosen})}
        served, failed = self._load_served()
        steps: dict[Hashable, Callable[[], object]] = {variant: self._prepare(variant) for variant in chosen}
        steps |= {name: step.prepare() for name, step in served.items()}
        reencoders = self._reencoders()
        times_ms = interleave(
            {**steps, **reencoders},
            self._options.rounds,
            repeats=dict.fromkeys(steps, STEPS_PER_ROUND),
            synchronize=_synchronize(self._options),
            progress=subrange(progress, 0.4, 0.6, f"window {self._window}: measuring"),
        )
        full_ms = {precision: times_ms[precision] for precision in reencoders}
        return {
            "window": self._window,
            "reencode_ms": {precision: spread(times)._asdict() for precision, times in full_ms.items()},
            "steps": [self._row(v, times_ms[v], full_ms, fidelity[v.precision, v.recompute]) for v in chosen],
            "runtimes": [self._served_row(step, times_ms[name], full_ms) for name, step in served.items()] + failed,
        }

    def _load_served(self) -> tuple[dict[Served, RuntimeStep], list[dict[str, str]]]:
        options = self._options
        served = served_steps(options.model, options.runtimes, options.precisions, options.exports)
        return load_steps(served, self._window, torch.get_num_threads())

    def _served_row(self, step: RuntimeStep, times_ms: list[float], full: Mapping[str, list[float]]) -> dict[str, Any]:
        medians = {precision: statistics.median(times) for precision, times in full.items()}
        return step.row(times_ms, medians, step.embeddings(self._pixels), self._embeddings("fp32", 1))

    def _reencoders(self) -> dict[str, Callable[[], object]]:
        """Full encodes of the window, by precision, each run once; transformers has no int8."""
        clip, dtypes = self._clip[: self._window], {p: DTYPES[p] for p in self._options.precisions if p != "int8"}
        made = {p: make_reencoder(self._options.model, self._spec, clip, self._device, d) for p, d in dtypes.items()}
        for reencode in made.values():
            reencode()
        return made

    def _encoder(self, precision: str, recompute: int) -> StreamingEncoder:
        key = precision, recompute
        if key not in self._encoders:
            self.loaded = load_encoder(self._options.model, self._window, recompute)
            encoder = self.loaded.encoder.prepare(self._device, DTYPES[precision], int8=precision == "int8")
            self._encoders[key] = encoder
        return self._encoders[key]

    def _prepare(self, variant: Variant) -> Callable[[], object]:
        """A step of full rings, ready to be timed."""
        encoder = self._encoder(variant.precision, variant.recompute)
        step_of = GraphedEncoder(encoder).step if variant.launch == "graph" else encoder.step
        rings = [encoder.new_ring() for _ in range(variant.batch)]
        patches = itertools.cycle([encoder.embed(tubelet) for tubelet in self._clip[: self._window]])
        for _ in range(self._window):
            step_of([next(patches)] * variant.batch, rings)
        share, tokens = variant.share, encoder.spec.tokens
        token_idx = None if share is None else spread_evenly(max(1, round(share * tokens)), tokens)

        def step() -> object:
            """Encode the clip's next tubelet, in every stream."""
            return step_of([next(patches)] * variant.batch, rings, [token_idx] * variant.batch)

        step()
        step()
        return step

    def _fidelity(self, precision: str, recompute: int) -> dict[str, Any]:
        """Centred cosine to the fp32 step: mean and worst over the clip's tubelets."""
        cosines = centred_cosine(self._embeddings(precision, recompute), self._embeddings("fp32", recompute))  # (T,)
        found = summarize(cosines)
        return {"mean": found.mean, "worst": found.worst, "tubelets": len(cosines)}

    def _embeddings(self, precision: str, recompute: int) -> npt.NDArray[np.float32]:
        """Embeddings of every tubelet of the clip, computed once: (T, D)."""
        key = precision, recompute
        if key not in self._embedded:
            encoder = self._encoder(precision, recompute)
            ring = encoder.new_ring()
            outputs = [encoder.step([encoder.embed(tubelet)], [ring])[0] for tubelet in self._clip]
            self._embedded[key] = np.stack([output.newest.float().cpu().numpy() for output in outputs])
        return self._embedded[key]

    def _row(
        self, variant: Variant, times_ms: list[float], full_ms: Mapping[str, list[float]], fidelity: dict[str, Any]
    ) -> dict[str, Any]:
        encoder = self._encoder(variant.precision, variant.recompute)
        share = 1.0 if variant.share is None else variant.share
        work = step_work(encoder.spec, variant.window, variant.recompute, variant.batch, variant.precision, share)
        floor_ms = self._rates[variant.precision].floor_ms(work)
        per_stream_ms = statistics.median(times_ms) / variant.batch
        return {
            **asdict(variant),
            "attention": type(encoder.attention).__name__,
            "linear": type(encoder.layers[0].fc1).__name__,
            "step_ms": spread(times_ms)._asdict(),
            "per_stream_ms": per_stream_ms,
            "speedup": {precision: statistics.median(full) / per_stream_ms for precision, full in full_ms.items()},
            "gflop": work.flops / 1e9,
            "mbyte": work.bytes / 1e6,
            "floor_ms": floor_ms,
            "over_floor": statistics.median(times_ms) / floor_ms,
            "cache_mb": encoder.cache_bytes / 1e6,
            "centred_cosine": fidelity if variant.share is None else None,
        }


def read_clip(path: str | Path, tubelets: int, size: int) -> Tensor:
    """Read the first tubelets of a clip, repeated if it is shorter; noise without one: (T, 2, 3, size, size)."""
    if not path:
        return torch.randn(tubelets, 2, 3, size, size, generator=torch.Generator().manual_seed(0))
    read = torch.from_numpy(read_tubelets(path, Config(), size, tubelets))
    return read[torch.arange(tubelets) % len(read)]


def table(record: dict[str, Any]) -> RenderableType:
    """Tabulate each window, and what its figures are relative to."""
    return Group(*_window_tables(record), *_footnotes(record))


def _window_tables(record: dict[str, Any]) -> Iterator[RenderableType]:
    for part in record["windows"]:
        title = f"{record['model']}, window {part['window']}, {record['device']}, {record['threads']} threads"
        found = Table(title=f"{title}: per stream and tubelet")
        found.add_column("step", no_wrap=True)
        for name in ("ms", "floor", "x floor", *(f"x {p}" for p in part["reencode_ms"]), "cosine", "worst"):
            found.add_column(name, justify="right")
        for row in part["steps"]:
            cosine, floor_ms = row["centred_cosine"] or {}, row["floor_ms"] / row["batch"]
            found.add_row(
                _name(row),
                *map(_time, (row["per_stream_ms"], floor_ms)),
                *(f"{ratio:.1f}" for ratio in (row["over_floor"], *row["speedup"].values())),
                *(f"{cosine[name]:.5f}" if cosine else "–" for name in ("mean", "worst")),
            )
        for row in (row for row in part["runtimes"] if "failure" not in row):
            cosine, name = row["centred_cosine"], f"{row['runtime']} {row['precision']}"
            ratios = (f"{ratio:.1f}" for ratio in row["speedup"].values())
            values = (f"{cosine[key]:.5f}" for key in ("mean", "worst"))
            found.add_row(name, _time(row["step_ms"]["median"]), "", "", *ratios, *values)
        yield found
        yield from (f"  no {r['runtime']} {r['precision']}: {r['failure']}" for r in part["runtimes"] if "failure" in r)
        for precision, full in part["reencode_ms"].items():
            yield f"  x {precision}: transformers' re-encode of the window, {full['median']:.0f} ms"


def _time(ms: float) -> str:
    return f"{ms:.2f}" if ms < 10 else f"{ms:.0f}"


def _footnotes(record: dict[str, Any]) -> Iterator[RenderableType]:
    for precision, rates in record["rates"].items():
        products, copy = rates["linear_flops"] / 1e9, rates["bytes"] / 1e9
        yield f"  {precision}: large product {products:.0f} GFLOP/s, copy {copy:.0f} GB/s"
    machine, versions = record["machine"], f"torch {record['torch']}; clip: {record['clip']}"
    about = f"  peak memory {record['peak_rss_mb']:.0f} MB; {record['weights']}; {machine}; {versions}"
    yield Text(about, style="dim")


def _name(row: dict[str, Any]) -> str:
    """A variant in a word or two: its differences from one eager causal step of one stream."""
    parts = [row["precision"]]
    parts += [f"recompute {row['recompute']}"] if row["recompute"] > 1 else []
    parts += [f"{row['batch']} streams"] if row["batch"] > 1 else []
    parts += [row["launch"]] if row["launch"] != "eager" else []
    parts += [f"{row['share']:.0%} of the tokens"] if row["share"] is not None else []
    return ", ".join(parts)
