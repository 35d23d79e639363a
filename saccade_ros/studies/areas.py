"""Area attention against full attention, at several schedules: `saccade evaluate areas`.

A schedule says how many of the first layers attend by area; the rest attends to everything. Of each: how close its
tokens and embeddings are to those of full attention, how long a step takes, and how much faster it can be at most.

The bound is Amdahl's (1967). If attention is a share p of the step, K of L layers attend by area, and there a query
meets a fraction f of the keys that it met before, the step is at most 1 / (1 - p K/L (1 - f)) times as fast.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from saccade_ros.backends.torch_backend import DTYPES
from saccade_ros.config import EncoderConfig
from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.model import StreamingEncoder
from saccade_ros.encoder.ring import Block
from saccade_ros.encoder.weights import LoadedEncoder, load_encoder
from saccade_ros.knobs import Settings, knob
from saccade_ros.measure.metrics import centred_cosine, linear_cka, summarize
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head
from saccade_ros.measure.timing import interleave, spread
from saccade_ros.studies.step import read_clip

SCHEDULES = (0, 1 / 2, 3 / 4, 5 / 6)  # of the layers attend by area: 12/12, 18/6 and 20/4 of 24
WORTH_IT = 1.05  # a bound below it is no gain that a robot would notice
ATTENTION = "attention"


@dataclass(frozen=True)
class Options(Settings):
    """Model and clip to try areas on."""

    model: str = knob("default", "default, size with random weights, or checkpoint folder.")
    area_grid: str = knob("2x2", "Areas, rows x columns.")
    window: int = knob(8, "Tubelets in the cache (W).", at_least=1)
    precision: str = knob("fp32", "Arithmetic of the step.", choices=tuple(DTYPES))
    threads: int = knob(0, "CPU threads; 0 leaves torch's default.", at_least=0)
    clip: str = knob("", "Bag or video to encode; empty: random noise.")
    tubelets: int = knob(48, "Tubelets of the clip to compare, repeated if it has fewer.", at_least=2)
    rounds: int = knob(50, "Rounds of one step of each schedule.", at_least=1)


class Outputs(NamedTuple):
    """Outputs of a stream on full windows: tokens (T, S, D) and embeddings (T, D), in fp32."""

    tokens: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32]


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Measure all schedules; return the record.

    Raises:
        WeightsError, ConfigError, ValueError: the model, the window or the areas cannot be used; says why.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    progress("loading", 0.0)
    full = _load(options, 0)
    by_area = {layers: _load(options, layers) for layers in schedules(full.encoder.spec.depth)[1:]}
    loaded = {0: full, **by_area}
    clip = read_clip(options.clip, options.window - 1 + options.tubelets, full.encoder.spec.input_size)
    outputs = {}
    for i, (layers, one) in enumerate(loaded.items()):
        progress(f"{layers} layers by area: streaming", 0.6 * i / len(loaded))
        outputs[layers] = _stream(one.encoder, clip)
    times_ms = _time(loaded, clip, options.rounds, subrange(progress, 0.6, 0.4))
    share = _ratio(times_ms[ATTENTION], times_ms[0])
    return {
        "evaluate": "areas",
        **record_head(full.source, full.sha256),
        "model": options.model,
        "window": options.window,
        "precision": options.precision,
        "threads": torch.get_num_threads(),
        "clip": Path(options.clip).name if options.clip else "random noise",
        "tubelets": options.tubelets,
        "area_grid": options.area_grid,
        "tokens_per_area": np.diff(_areas(options, full.encoder, 1).bounds).tolist(),
        "loading": _loading(loaded),
        "attention_ms": spread(times_ms[ATTENTION])._asdict(),
        "attention_share": share,
        "schedules": [_row(options, one.encoder, outputs, times_ms, share) for one in loaded.values()],
    }


def schedules(depth: int) -> list[int]:
    """Numbers of layers that attend by area, in an encoder of this depth, each once: 0, 12, 18 and 20 of 24."""
    return list(dict.fromkeys(round(depth * part) for part in SCHEDULES))


def bound(share: float, layers: float, attended: float) -> float:
    """Compute Amdahl's bound of the step's speed-up.

    Args:
        share: of the step's time that attention takes, where all of it is full.
        layers: fraction of the layers that attend by area.
        attended: fraction of the keys that a query meets there, in the mean.
    """
    return 1 / (1 - share * layers * (1 - attended))


def _load(options: Options, layers: int) -> LoadedEncoder:
    loaded = load_encoder(options.model, options.window)
    loaded.encoder.attend_by_area(_areas(options, loaded.encoder, layers))
    loaded.encoder.prepare(torch.device("cpu"), DTYPES[options.precision], int8=options.precision == "int8")
    return loaded


def _areas(options: Options, encoder: StreamingEncoder, layers: int) -> Areas:
    return Areas.of(encoder.spec, *EncoderConfig(area_grid=options.area_grid).area_shape, layers)


def _loading(loaded: Mapping[int, LoadedEncoder]) -> dict[str, Any]:
    """Say what was loaded: the loader is strict, and every schedule got the same tensors."""
    full = loaded[0]
    return {
        "strict": not full.is_random,
        "source": full.source,
        "same_weights": len({one.sha256 for one in loaded.values()}) == 1,
    }


def _stream(encoder: StreamingEncoder, clip: Tensor) -> Outputs:
    """Encode a clip, and keep what comes once the window is full."""
    ring = encoder.new_ring()
    outputs = [encoder.step([encoder.embed(tubelet)], [ring])[0] for tubelet in clip][encoder.window - 1 :]
    parts = [output.tokens[-1] for output in outputs], [output.newest for output in outputs]
    return Outputs(*(torch.stack(part).float().numpy() for part in parts))


def _time(
    loaded: Mapping[int, LoadedEncoder], clip: Tensor, rounds: int, progress: Progress
) -> dict[int | str, list[float]]:
    """Time a step of each schedule, by its layers, and the attention of all layers of the full one, in turns."""
    calls: dict[int | str, Callable[[], object]] = {
        layers: _stepper(one.encoder, clip) for layers, one in loaded.items()
    }
    calls[ATTENTION] = _attention(loaded[0].encoder, clip)
    return interleave(calls, rounds, progress=progress)


def _stepper(encoder: StreamingEncoder, clip: Tensor) -> Callable[[], object]:
    """Prepare a step of a full ring."""
    ring, patches = encoder.new_ring(), itertools.cycle([encoder.embed(tubelet) for tubelet in clip[:8]])

    def step() -> object:
        """Encode the next tubelet."""
        return encoder.step([next(patches)], [ring])

    for _ in range(encoder.window + 2):
        step()
    return step


def _attention(encoder: StreamingEncoder, clip: Tensor) -> Callable[[], object]:
    """Prepare the attention of all layers in a step of a full ring, on one projection of a tubelet."""
    ring, patches, spec = encoder.new_ring(), encoder.embed(clip[0]), encoder.spec
    for _ in range(encoder.window):
        encoder.step([patches], [ring])
    size = spec.tokens, 3, spec.heads, spec.head_width
    qkv = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(encoder.dtype)

    @torch.inference_mode()
    def attend() -> None:
        """Attend in every layer; the ring is not advanced."""
        block = Block(ring)
        block.rotations = encoder.attention.rotations(block)
        for layer in range(spec.depth):
            encoder.attention(layer, qkv, block)

    attend()
    return attend


def _ratio(ours_ms: list[float], theirs_ms: list[float]) -> float:
    """Median ratio of the times of each round, in which the machine was as fast for both."""
    return statistics.median(ours / theirs for ours, theirs in zip(ours_ms, theirs_ms, strict=True))


def _row(
    options: Options,
    encoder: StreamingEncoder,
    outputs: Mapping[int, Outputs],
    times_ms: Mapping[int | str, list[float]],
    share: float,
) -> dict[str, Any]:
    layers, depth = encoder.areas.layers, encoder.spec.depth
    ours, full = outputs[layers], outputs[0]
    attended = _areas(options, encoder, 1).attended
    faster = _ratio(times_ms[0], times_ms[layers])
    at_most = bound(share, layers / depth, attended)
    return {
        "area_layers": layers,
        "full_layers": depth - layers,
        "attention": type(encoder.attention).__name__,
        "token_cosine": float(_cosine(ours.tokens, full.tokens).mean()),
        "centred_cosine": summarize(centred_cosine(ours.embeddings, full.embeddings))._asdict(),
        "linear_cka": linear_cka(*(one.tokens.reshape(-1, encoder.spec.width) for one in (ours, full))),
        "step_ms": spread(times_ms[layers])._asdict(),
        "speedup": faster,
        "bound": at_most,
        "verdict": judge(layers, share, faster, at_most),
    }


def _cosine(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> npt.NDArray[np.floating[Any]]:
    """Plain cosine of each pair of tokens: (.., D), (.., D) -> (..)."""
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    cosines: npt.NDArray[np.floating[Any]] = (ours * theirs).sum(axis=-1) / lengths
    return cosines


def judge(layers: int, share: float, faster: float, at_most: float) -> str:
    """Say in words whether a schedule can pay, and whether it did.

    Args:
        layers: that attend by area.
        share: of the step that attention takes.
        faster, at_most: speed-up measured, and its bound.
    """
    if not layers:
        return "the reference"
    if at_most < WORTH_IT:
        return f"cannot pay: attention is {share:.0%} of the step, so at most {at_most:.2f}x"
    if faster < 1:
        return f"does not pay here: could reach {at_most:.2f}x, but is slower than full attention"
    return f"pays {faster:.2f}x of at most {at_most:.2f}x, if the cosines are good enough"


def table(record: dict[str, Any]) -> RenderableType:
    """Tabulate a row per schedule, and say what was loaded and what can pay."""
    title = f"{record['model']}, areas {record['area_grid']}, window {record['window']}, {record['precision']}"
    found = Table(title=f"{title}, {record['threads']} threads, on {record['clip']}")
    found.add_column("layers", no_wrap=True)
    for column in ("tokens", "pooled", "worst", "CKA", "ms", "x", "bound"):
        found.add_column(column, justify="right")
    for row in record["schedules"]:
        cosine = row["centred_cosine"]
        figures = row["token_cosine"], cosine["mean"], cosine["worst"], row["linear_cka"]
        times = f"{row['step_ms']['median']:.2f}", f"{row['speedup']:.2f}", f"{row['bound']:.2f}"
        found.add_row(_name(row), *(f"{figure:.4f}" for figure in figures), *times)
    return Group(found, *(Text(line, style="dim") for line in _footnotes(record)))


def _name(row: dict[str, Any]) -> str:
    return f"{row['area_layers']}/{row['full_layers']}" if row["area_layers"] else "full"


def _footnotes(record: dict[str, Any]) -> list[str]:
    loading = record["loading"]
    what = "yes, every tensor of" if loading["strict"] else "no checkpoint, but"
    same = "the same weights in all schedules" if loading["same_weights"] else "NOT the same weights in all schedules"
    verdicts = [f"  {_name(row)}: {row['verdict']}" for row in record["schedules"] if row["area_layers"]]
    kernels = " and ".join(dict.fromkeys(row["attention"] for row in record["schedules"]))
    return [
        "  layers: by area / full. To full attention: mean cosine of tokens; mean and worst centred cosine of pooled",
        "  embeddings; linear CKA of tokens. x: times as fast as full; bound: the most that can be (Amdahl)",
        f"  strict loading: {what} {loading['source']}; {same}",
        f"  attention of the full step: {record['attention_share']:.0%} of its time ({kernels})",
        *verdicts,
        f"  {record['machine']}",
    ]
