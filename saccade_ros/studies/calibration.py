"""Largest gate.tau that keeps a promised fidelity on recordings of the robot's own world: `saccade calibrate`.

Always-encode runs once over each recording; every tau is then tried on what it left. Recordings are split in two: the
mean embedding that fidelity is centred on comes from the first part, and tau must keep the promise on the first part
and on the held-out one. With one recording its last third is held out, with several the last ones.

The promise is the gate's, which encodes a tubelet whole or not at all; so tokens.select is all throughout, and in the
parameters that come of it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.backends import Backend
from saccade_ros.config import Config
from saccade_ros.frames import Figures
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head, save_record
from saccade_ros.params_file import params_file_text
from saccade_ros.pipeline import Pipeline, patch_response
from saccade_ros.plan.centre import encode_centre
from saccade_ros.recordings import open_source
from saccade_ros.recordings.clip import frames_of
from saccade_ros.storage import write_file
from saccade_ros.studies.baselines import Replay, Score, pixel_gate, previous_gate, score, surprise_gate
from saccade_ros.studies.plots import draw_calibration
from saccade_ros.studies.trace import Trace, common_centre, record

TAUS = np.geomspace(0.01, 5.0, 48)
BASELINE_POINTS = 24
HELD_OUT = 1 / 3


@dataclass(frozen=True)
class Options(Settings):
    """Recordings to calibrate on, and the fidelity to keep.

    Of the config's gate section all but tau is kept; tokens.select is all whatever the config says.
    """

    sources: tuple[Path, ...] = required(
        "Recordings of what the robot will see.", metavar="BAG_OR_VIDEO", positional=True
    )
    target_fidelity: float = knob(
        0.98,
        "Least 5th percentile of centred cosine between reused and fresh embeddings.",
        at_least=0.001,
        at_most=0.999999999,
        metavar="COSINE",
    )
    out: Path = knob(Path("calibrated.yaml"), "File for the parameters; .json and .png beside it.", metavar="FILE")
    config: Config = Config()


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Choose gate.tau for these recordings.

    Returns:
        The record: the choice (tau None if none keeps the promise), the curves, the shadow evaluation of the gated
        stream ("shadow"), and the config to write.

    Raises:
        SourceError: a recording cannot be read to its end.
        ValueError: a recording is shorter than the encoder's window, or has no tubelet.
    """
    target = options.target_fidelity
    config = replace(options.config, tokens=replace(options.config.tokens, select="all"))
    progress("loading the model", 0.0)
    gate = replace(config.gate, enabled=True, mode="fixed", calibrated_for="", centre="", shadow_rate=1.0)
    pipeline = Pipeline(replace(config, gate=gate))
    info = pipeline.backend.info
    traces = _traces(options.sources, pipeline, subrange(progress, 0.0, 0.7))
    tuning, held_out = split(traces)
    centre = common_centre(tuning, config.encoder.window)
    curves = sweep(tuning, held_out, pipeline, centre, subrange(progress, 0.7, 0.15))
    chosen = largest_tau(curves["surprise"], target)
    tau = chosen["threshold"] if chosen else None
    calibrated = replace(gate, tau=tau or 0.0, calibrated_for=info.encoder_id, centre=encode_centre(centre))
    shadow = None
    if chosen:
        gated = replace(config, gate=calibrated)
        shadow = shadow_run(options.sources[-1], gated, pipeline.backend, held_out[-1], subrange(progress, 0.85, 0.15))
    return {
        "calibration": "gate.tau",
        **record_head(info.weights, info.weights_sha256),
        "target": target,
        "tau": tau,
        "chosen": chosen,
        "shadow": shadow,
        "recordings": {"tuning": _sizes(tuning), "held_out": _sizes(held_out)},
        "curves": curves,
        "encoder_id": info.encoder_id,
        "window": config.encoder.window,
        "fps": config.stream.fps,
        "config": asdict(replace(config, gate=replace(calibrated, shadow_rate=config.gate.shadow_rate))),
    }


def _traces(sources: Sequence[Path], pipeline: Pipeline, progress: Progress) -> list[Trace]:
    """Every recording, encoded in full."""
    config, backend, traces = pipeline.config, pipeline.backend, []
    for i, path in enumerate(sources):
        told = subrange(progress, i / len(sources), 1 / len(sources))
        with open_source(path) as source:
            count = source.count or math.nan
            traces.append(record(path.name, frames_of(source), config, backend, progress=told, count=count))
    return traces


def split(traces: Sequence[Trace]) -> tuple[list[Trace], list[Trace]]:
    """Split recordings in those to tune on and those held out: the last third of them, or of the one there is."""
    if len(traces) > 1:
        kept = len(traces) - max(1, round(len(traces) * HELD_OUT))
        return list(traces[:kept]), list(traces[kept:])
    (only,) = traces
    cut = len(only) - round(len(only) * HELD_OUT)
    first, last = only.part(0, cut, f"{only.name}, first part"), only.part(cut, len(only), f"{only.name}, last third")
    return [first], [last]


def sweep(
    tuning: Sequence[Trace],
    held_out: Sequence[Trace],
    pipeline: Pipeline,
    centre: npt.NDArray[np.float32],
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Score each gate at many thresholds, on the recordings to tune on and on the held-out ones."""
    gate, window, response = pipeline.config.gate, pipeline.config.encoder.window, patch_response(pipeline.backend)
    gates: dict[str, tuple[Callable[[Trace], Replay], npt.NDArray[np.float64]]] = {
        "surprise": (lambda trace: surprise_gate(trace, gate, response, window), TAUS),
        "pixel difference": (lambda trace: pixel_gate(trace, gate, window), np.geomspace(0.1, 100, BASELINE_POINTS)),
        "previous tubelet": (lambda trace: previous_gate(trace, gate, window), np.geomspace(0.01, 3, BASELINE_POINTS)),
    }
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, (replay_of, thresholds) in gates.items():
        parts = [[(trace, replay_of(trace)) for trace in part] for part in (tuning, held_out)]
        curves[name] = []
        for i, threshold in enumerate(thresholds.tolist()):
            progress(f"sweeping the {name} gate", (len(curves) - 1 + i / len(thresholds)) / len(gates))
            scores = [[score(t, replay(threshold), centre, window) for t, replay in part] for part in parts]
            curves[name].append({"threshold": threshold, "tuning": _worst(scores[0]), "held_out": _worst(scores[1])})
    return curves


def _worst(scores: Sequence[Score]) -> dict[str, float]:
    """Mean fraction encoded and least fidelity over several recordings."""
    return {
        "rate": float(np.mean([s.rate for s in scores])),
        "mean": min(s.mean for s in scores),
        "p5": min(s.reused_p5 for s in scores),
        "worst": min(s.worst for s in scores),
        "staleness_s_max": max(s.staleness_s_max for s in scores),
    }


def largest_tau(curve: Sequence[dict[str, Any]], target: float) -> dict[str, Any] | None:
    """Choose the last point before the first that breaks the promise in either part; None if the first one does.

    Not the largest of all that keep it: beyond the first failure a success is luck.
    """
    chosen = None
    for point in curve:
        if min(point["tuning"]["p5"], point["held_out"]["p5"]) < target:
            break
        chosen = point
    return chosen


def shadow_run(path: Path, config: Config, backend: Backend, held_out: Trace, progress: Progress) -> Figures:
    """Run the gated stream itself on the held-out recording, with shadow evaluation of every skipped tubelet."""
    every = replace(config, gate=replace(config.gate, shadow_rate=1.0))
    stream = Pipeline(every, backend).open_stream()
    with open_source(path) as source:
        frames = (frame for frame in frames_of(source) if frame.stamp_ns >= held_out.stamps_ns[0])
        for _ in stream.run(frames):
            progress(f"shadow evaluation on {path.name}", stream.published / len(held_out))
            if stream.shadow_due:
                stream.evaluate_shadow()
    return {**stream.report(), "encode_rate": stream.encoded / max(1, stream.published)}


def _sizes(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    return [
        {"name": trace.name, "tubelets": len(trace), "seconds": float(np.ptp(trace.stamps_ns)) / 1e9}
        for trace in traces
    ]


def params_text(record: dict[str, Any]) -> str:
    """Write the ROS parameter file of a calibration, as text.

    Raises:
        ValueError: no tau keeps the promise.
    """
    if record["tau"] is None:
        raise ValueError(
            f"no tau keeps a 5th percentile of {record['target']}: the picture shows what can be had; "
            "lower --target-fidelity, or set gate.enabled: false to encode everything"
        )
    config = record["config"]
    sections = {name: dict(config[name]) for name in ("stream", "vision", "gate", "tokens", "encoder")}
    sections["backend"] = {"precision": config["backend"]["precision"]}
    names = ", ".join(recording["name"] for recording in record["recordings"]["held_out"])
    held_out = record["chosen"]["held_out"]
    head = (
        f"Written by `saccade calibrate` on {record['date']} for {record['encoder_id']}.\n"
        f"gate.tau keeps the 5th percentile of the centred cosine between reused and fresh embeddings at\n"
        f"{record['target']:g} or above: {held_out['p5']:.4f} on what was held out ({names}), "
        f"with {held_out['rate']:.0%} of its tubelets encoded.\n"
        f"That holds with tokens.select all: with a token selection, gate.tau decides on events alone."
    )
    return params_file_text(sections, head)


def table(record: dict[str, Any]) -> str:
    """State the choice in a line, and the fidelity of the gated stream by shadow evaluation."""
    if record["tau"] is None:
        return f"no tau keeps a 5th percentile of {record['target']}"
    held_out, shadow = record["chosen"]["held_out"], record["shadow"]
    lines = [f"gate.tau {record['tau']:.4f}: held out, {held_out['rate']:.0%} encoded, p5 {held_out['p5']:.4f}"]
    if "fidelity_p5" in shadow:
        lines.append(
            "the gated stream itself, by shadow evaluation: "
            f"{shadow['encode_rate']:.0%} encoded, p5 {shadow['fidelity_p5']:.4f}"
        )
    return "\n".join(lines)


def outputs(options: Options) -> list[Path]:
    """Return the files that `save` writes."""
    return [options.out, *(options.out.with_suffix(suffix) for suffix in (".json", ".png"))]


def save(record: dict[str, Any], options: Options) -> Iterator[Path]:
    """Write picture, record and parameter file, and yield each.

    Raises:
        ValueError: no tau keeps the promise, so there are no parameters.
    """
    yield draw_calibration(record, options.out.with_suffix(".png"))
    yield save_record(record, options.out.with_suffix(".json"))
    write_file(options.out, params_text(record))
    yield options.out
