"""Our gate against the two simple ones at equal compute, on recordings and on scenes drawn for the purpose.

The weights matter to what fidelity means. With random weights the encoder is a fixed nonlinear function of its input,
so that it can be told whether the tubelets chosen stand for those left out, but it answers to light and noise as no
trained encoder would.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.config import Config
from saccade_ros.engine import Engine, patch_response
from saccade_ros.measure.machine import describe_machine
from saccade_ros.plan.reference import PatchResponse
from saccade_ros.recordings import open_source
from saccade_ros.studies.baselines import (
    Encoded,
    Replay,
    match_count,
    pixel_gate,
    previous_gate,
    score,
    surprise_gate,
)
from saccade_ros.studies.calibration import common_centre
from saccade_ros.studies.scenes import generated_scenes
from saccade_ros.studies.trace import Trace, frames_of, record

# Embeddings that agree beyond this many digits are equal: fp32 sums of other lengths differ more.
TIE = 5e-4


def compare_gates(
    clips: Sequence[Path], config: Config, share: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Table of all scenes and clips.

    Args:
        share: of the tubelets, to be encoded by each gate in each row, as nearly as its threshold can; in `at_tau`
            ours is besides judged at gate.tau as it is.
    """
    engine = Engine(replace(config, gate=replace(config.gate, enabled=True, mode="fixed")))
    traces = [*_scene_traces(engine, progress), *_clip_traces(clips, engine, progress)]
    window, response = config.encoder.window, patch_response(engine.backend)
    centre = common_centre(traces, window)
    rows = []
    for trace in traces:
        progress(f"judging {trace.name}")
        rows.append(_row(trace, engine.config, response, centre, share))
    return {
        "bench": "gates",
        "share": share,
        "tau": config.gate.tau,
        "rows": rows,
        "weights": engine.backend.info.weights,
        "encoder_id": engine.backend.info.encoder_id,
        "window": window,
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
    }


def _scene_traces(engine: Engine, progress: Callable[[str], None]) -> list[Trace]:
    """The generated scenes, every frame of them."""
    config = replace(engine.config, stream=replace(engine.config.stream, fps=0.0))
    return [
        record(s.name, s.frames(), config, engine.backend, s.events, partial(progress, f"encoding {s.name}"))
        for s in generated_scenes()
    ]


def _clip_traces(clips: Sequence[Path], engine: Engine, progress: Callable[[str], None]) -> list[Trace]:
    traces = []
    for path in clips:
        with open_source(path) as source:
            frames = frames_of(source, round(engine.config.vision.max_megapixels * 1e6))
            told = partial(progress, f"encoding {path.name}")
            traces.append(record(path.name, frames, engine.config, engine.backend, progress=told))
    return traces


def _row(
    trace: Trace, config: Config, response: PatchResponse, centre: npt.NDArray[np.float32], share: float
) -> dict[str, Any]:
    window, gate = config.encoder.window, config.gate
    ours = surprise_gate(trace, gate, response, window)
    warm = int(trace.warm(window).sum())
    _, encoded = match_count(ours, warm + round(share * (len(trace) - warm)), 0.005, 8.0, rounds=10)
    count = int(encoded.sum())
    others: dict[str, tuple[Replay, float, float]] = {
        "pixel difference": (pixel_gate(trace, gate, window), 1e-3, 255.0),
        "previous tubelet": (previous_gate(trace, gate, window), 1e-5, 10.0),
    }
    chosen: dict[str, Encoded] = {"surprise": encoded}
    chosen |= {name: match_count(replay, count, low, high)[1] for name, (replay, low, high) in others.items()}
    gates = {name: score(trace, choice, centre, window)._asdict() for name, choice in chosen.items()}
    natural = ours(gate.tau)
    refreshes = _refreshes(trace, gate.max_skip_s)
    at_tau = score(trace, natural, centre, window)._asdict()
    at_tau["beyond_refreshes"] = max(0, at_tau["encoded"] - refreshes) / max(1, len(trace) - warm)
    return {
        "name": trace.name,
        "tubelets": len(trace),
        "gates": _finite(gates),
        "at_tau": _finite(at_tau),
        "verdict": verdict(trace.name, gates),
    }


def _refreshes(trace: Trace, max_skip_s: float) -> int:
    """Encodes that max_skip_s alone asks for."""
    return int(np.ptp(trace.stamps_ns) / 1e9 / max_skip_s) if max_skip_s else 0


def verdict(name: str, gates: dict[str, Any]) -> str:
    """better, equal or worse than the better of the two others, in mean and p5."""
    ours = gates["surprise"]
    margins = [
        ours[key] - max(gates[other][key] for other in ("pixel difference", "previous tubelet"))
        for key in ("mean", "p5")
    ]
    if min(margins) < -TIE:
        return "worse" if max(margins) <= TIE else "mixed"
    return "better" if max(margins) > TIE else "equal"


def _finite(value: Any) -> Any:
    """For strict JSON: NaN becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def markdown(result: dict[str, Any]) -> str:
    """The table, one line per scene or clip and gate."""
    lines = [
        "| scene or clip | gate | encoded | mean | p5 | worst | event latency, s | staleness mean, max, s | ours is |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        for name, s in row["gates"].items():
            ours = name == "surprise"
            latency = "–" if s["latency_s"] is None else f"{s['latency_s']:.2f}"
            lines.append(
                f"| {row['name'] if ours else ''} | {name} | {s['rate']:.1%} | {s['mean']:.4f} | {s['p5']:.4f} | "
                f"{s['worst']:.4f} | {latency} | {s['staleness_s_mean']:.2f}, {s['staleness_s_max']:.2f} | "
                f"{row['verdict'] if ours else ''} |"
            )
    return "\n".join(lines)
