"""Policies of the gate at equal compute, and the oracle, on clips and generated scenes: `saccade bench gates`.

The weights matter to what fidelity means. With random weights the encoder is a fixed nonlinear function of its input,
so that it can be told whether the tubelets chosen stand for those left out, but it reacts to light and noise as no
trained encoder would.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.config import Config, StreamConfig
from saccade_ros.knobs import Settings, knob
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head
from saccade_ros.pipeline import Pipeline, patch_response
from saccade_ros.plan.change import PatchResponse
from saccade_ros.recordings import open_source
from saccade_ros.recordings.clip import frames_of
from saccade_ros.studies.baselines import RANGES, gate_replay, match_count, oracle, score
from saccade_ros.studies.plots import draw_gates
from saccade_ros.studies.scenes import FRAMES, generated_scenes
from saccade_ros.studies.trace import Trace, common_centre, record

# Embeddings that agree beyond this many digits are equal: fp32 sums of other lengths differ more.
TIE = 5e-4
OURS, BASELINES = "predicted", ("pixels", "previous", "even")  # of gate.policy


@dataclass(frozen=True)
class Options(Settings):
    """Recordings beside the generated scenes, and the compute that each gate gets."""

    clips: tuple[Path, ...] = knob(
        (), "Bags or videos beside the generated scenes.", metavar="BAG_OR_VIDEO", positional=True
    )
    fraction: float = knob(
        0.15, "Fraction of the tubelets that each gate encodes, as nearly as it can.", at_least=0.0, at_most=1.0
    )
    target: float = knob(
        0.98, "Centred cosine that the oracle keeps for each tubelet.", at_least=0.0, at_most=1.0, metavar="COSINE"
    )
    config: Config = Config(stream=StreamConfig(fps=0.0))


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Judge each gate on each scene and clip, at the same number of encodes; the product's at gate.tau besides."""
    config = options.config
    progress("loading the model", 0.0)
    gate, tokens = replace(config.gate, enabled=True, mode="fixed"), replace(config.tokens, select="all")
    pipeline = Pipeline(replace(config, gate=gate, tokens=tokens))  # the gate alone: it decides on whole tubelets
    traces = _traces(options.clips, pipeline, subrange(progress, 0.0, 0.8))
    window, response, info = config.encoder.window, patch_response(pipeline.backend), pipeline.backend.info
    centre = common_centre(traces, window)
    rows = []
    for i, trace in enumerate(traces):
        progress(f"judging {trace.name}", 0.8 + 0.2 * i / len(traces))
        rows.append(_row(trace, pipeline.config, response, centre, options))
    return {
        "bench": "gates",
        **record_head(info.weights, info.weights_sha256),
        "fraction": options.fraction,
        "target": options.target,
        "tau": config.gate.tau,
        "rows": rows,
        "encoder_id": info.encoder_id,
        "window": window,
    }


def _traces(clips: tuple[Path, ...], pipeline: Pipeline, progress: Progress) -> list[Trace]:
    """The generated scenes, every frame of them, then the clips."""
    config, backend, scenes = pipeline.config, pipeline.backend, generated_scenes()
    dense = replace(config, stream=replace(config.stream, fps=0.0))
    span = 1 / (len(scenes) + len(clips))
    traces = []
    for i, scene in enumerate(scenes):
        told = subrange(progress, i * span, span)
        traces.append(record(scene.name, scene.frames(), dense, backend, scene.events_ns, told, FRAMES))
    for i, path in enumerate(clips, len(scenes)):
        told = subrange(progress, i * span, span)
        with open_source(path) as source:
            count = source.count or math.nan
            traces.append(record(path.name, frames_of(source), config, backend, progress=told, count=count))
    return traces


def _row(
    trace: Trace, config: Config, response: PatchResponse, centre: npt.NDArray[np.float32], options: Options
) -> dict[str, Any]:
    window, warm = config.encoder.window, int(trace.warm(config.encoder.window).sum())
    count = warm + round(options.fraction * (len(trace) - warm))
    gates, ours = {}, replace(config.gate, policy=OURS)
    for policy in (OURS, *BASELINES):
        replay = gate_replay(trace, replace(ours, policy=policy), response, centre, window)
        _, encoded = match_count(replay, count, *RANGES[policy])
        gates[policy] = score(trace, encoded, centre, window)._asdict()
        count = int(encoded.sum()) if policy == OURS else count  # as many as ours, which no threshold may hit exactly
    at_tau = score(trace, gate_replay(trace, ours, response, centre, window)(ours.tau), centre, window)._asdict()
    beyond = max(0, at_tau["encoded"] - _refreshes(trace, ours.max_skip_s))
    return {
        "name": trace.name,
        "tubelets": len(trace),
        "gates": _finite(gates),
        "at_tau": _finite({**at_tau, "beyond_refreshes": beyond / max(1, len(trace) - warm)}),
        "oracle": _finite(score(trace, oracle(trace, centre, window, options.target), centre, window)._asdict()),
        "outcome": compare_outcome(gates),
    }


def _refreshes(trace: Trace, max_skip_s: float) -> int:
    """Encodes that max_skip_s alone asks for."""
    return int(np.ptp(trace.stamps_ns) / 1e9 / max_skip_s) if max_skip_s else 0


def compare_outcome(gates: Mapping[str, Mapping[str, float]]) -> str:
    """Compare the product's gate with the best baseline, in mean and p5: better, equal, worse or mixed."""
    margins = [gates[OURS][key] - max(gates[name][key] for name in BASELINES) for key in ("mean", "p5")]
    if min(margins) < -TIE:
        return "worse" if max(margins) <= TIE else "mixed"
    return "better" if max(margins) > TIE else "equal"


def _finite(value: Any) -> Any:
    """Put None in the place of NaN and infinity, for strict JSON."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def table(record: dict[str, Any]) -> str:
    """Write a Markdown table, one line per scene or clip and gate."""
    lines = [
        "| scene or clip | gate | encoded | mean | p5 | worst | event latency, s | staleness mean, max, s | outcome |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        for name, s in row["gates"].items():
            ours = name == OURS
            latency = "–" if s["latency_s"] is None else f"{s['latency_s']:.2f}"
            lines.append(
                f"| {row['name'] if ours else ''} | {name} | {s['rate']:.1%} | {s['mean']:.4f} | {s['p5']:.4f} | "
                f"{s['worst']:.4f} | {latency} | {s['staleness_s_mean']:.2f}, {s['staleness_s_max']:.2f} | "
                f"{row['outcome'] if ours else ''} |"
            )
        for name, s in (("at gate.tau", row["at_tau"]), (f"oracle of {record['target']:g}", row["oracle"])):
            lines.append(f"| | {name} | {s['rate']:.1%} | {s['mean']:.4f} | {s['p5']:.4f} | {s['worst']:.4f} | | | |")
    return "\n".join(lines)


def draw(record: dict[str, Any], file: Path) -> Path:
    """Draw mean and 5th percentile of each gate on each recording."""
    return draw_gates(record, file)
