"""The largest tau that keeps a promised fidelity, from recordings of the robot's own world.

Always-encode runs once over each recording; every tau is then tried on what it left. Recordings are split in two: the
mean embedding that fidelity is centred on comes from the first part, and tau must keep the promise on the first part
and on the held-out one. With one recording its last third is held out, with several the last ones.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from saccade_ros.backends import Backend
from saccade_ros.config import Config, GateConfig
from saccade_ros.engine import Engine, Stream, patch_response
from saccade_ros.frames import Figures
from saccade_ros.measure.machine import describe_machine
from saccade_ros.plan.centre import encode_centre
from saccade_ros.recordings import open_source
from saccade_ros.studies.baselines import Replay, Score, pixel_gate, previous_gate, score, surprise_gate
from saccade_ros.studies.trace import Trace, frames_of, record

TAUS = np.geomspace(0.01, 5.0, 48)
BASELINE_POINTS = 24
HELD_OUT = 1 / 3
Progress = Callable[[str], None]  # called with what is being done, at each step of it


def calibrate(sources: Sequence[Path], config: Config, target: float, progress: Progress) -> dict[str, Any]:
    """Choose gate.tau for these recordings.

    Args:
        sources: bags or videos of what the robot will see.
        config: encoder, stream and vision settings to calibrate for; its gate section but for tau is kept.
        target: least 5th percentile of centred cosine between reused and fresh embeddings.

    Returns:
        A JSON-ready result: the choice (tau None if none keeps the promise), the curves, the check by audit, the
        config to write, and the machine.

    Raises:
        SourceError: a recording cannot be read to its end.
        ValueError: a recording is shorter than the encoder's window, or has no tubelet.
    """
    gate = replace(config.gate, enabled=True, mode="fixed", calibrated_for="", centre="", shadow_rate=1.0)
    engine = Engine(replace(config, gate=gate))
    max_pixels = round(config.vision.max_megapixels * 1e6)
    traces = []
    for path in sources:
        with open_source(path) as source:
            frames = frames_of(source, max_pixels)
            step = lambda name=path.name: progress(f"encoding all of {name}")  # noqa: E731
            traces.append(record(path.name, frames, config, engine.backend, progress=step))
    tuning, held_out = split(traces)
    centre = common_centre(tuning, config.encoder.window)
    curves = sweep(tuning, held_out, engine, gate, centre, progress)
    chosen = largest_tau(curves["surprise"], target)
    tau = chosen["threshold"] if chosen else 0.0
    calibrated = replace(gate, tau=tau, calibrated_for=engine.backend.info.encoder_id, centre=encode_centre(centre))
    checked = None
    if chosen:
        checked = shadow_run(sources[-1], replace(config, gate=calibrated), engine.backend, held_out[-1], progress)
    return {
        "calibration": "gate.tau",
        "target": target,
        "tau": chosen["threshold"] if chosen else None,
        "chosen": chosen,
        "audited": checked,
        "recordings": {"tuning": _sizes(tuning), "held_out": _sizes(held_out)},
        "curves": curves,
        "encoder_id": engine.backend.info.encoder_id,
        "weights": engine.backend.info.weights,
        "window": config.encoder.window,
        "fps": config.stream.fps,
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        "config": asdict(replace(config, gate=replace(calibrated, shadow_rate=config.gate.shadow_rate))),
    }


def split(traces: Sequence[Trace]) -> tuple[list[Trace], list[Trace]]:
    """What to tune on, and what to hold out: the last third of the recordings, or of the one there is."""
    if len(traces) > 1:
        kept = len(traces) - max(1, round(len(traces) * HELD_OUT))
        return list(traces[:kept]), list(traces[kept:])
    (only,) = traces
    cut = len(only) - round(len(only) * HELD_OUT)
    first, last = only.part(0, cut, f"{only.name}, first part"), only.part(cut, len(only), f"{only.name}, last third")
    return [first], [last]


def common_centre(traces: Sequence[Trace], window: int) -> npt.NDArray[np.float32]:
    """Mean embedding, each recording counting once: (dim,)."""
    means = [trace.vectors[~trace.warm(window)].mean(axis=0) for trace in traces if not trace.warm(window).all()]
    if not means:
        raise ValueError(f"no recording is longer than the window of {window} tubelets: give longer ones")
    centre: npt.NDArray[np.float32] = np.mean(means, axis=0, dtype=np.float32)
    return centre


def sweep(
    tuning: Sequence[Trace],
    held_out: Sequence[Trace],
    engine: Engine,
    gate: GateConfig,
    centre: npt.NDArray[np.float32],
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Each gate at many thresholds: share encoded and fidelity, on the recordings held out and on the others."""
    window, response = engine.config.encoder.window, patch_response(engine.backend)
    gates: dict[str, tuple[Callable[[Trace], Replay], npt.NDArray[np.float64]]] = {
        "surprise": (lambda trace: surprise_gate(trace, gate, response, window), TAUS),
        "pixel difference": (lambda trace: pixel_gate(trace, gate, window), np.geomspace(0.1, 100, BASELINE_POINTS)),
        "previous tubelet": (lambda trace: previous_gate(trace, gate, window), np.geomspace(0.01, 3, BASELINE_POINTS)),
    }
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, (replay_of, thresholds) in gates.items():
        parts = [[(trace, replay_of(trace)) for trace in part] for part in (tuning, held_out)]
        curves[name] = []
        for threshold in thresholds.tolist():
            progress(f"sweeping the {name} gate")
            scores = [[score(t, replay(threshold), centre, window) for t, replay in part] for part in parts]
            curves[name].append({"threshold": threshold, "tuning": _worst(scores[0]), "held_out": _worst(scores[1])})
    return curves


def _worst(scores: Sequence[Score]) -> dict[str, float]:
    """Over several recordings: the mean share encoded, and the least fidelity."""
    return {
        "rate": float(np.mean([s.rate for s in scores])),
        "mean": min(s.mean for s in scores),
        "p5": min(s.reused_p5 for s in scores),
        "worst": min(s.worst for s in scores),
        "staleness_s_max": max(s.staleness_s_max for s in scores),
    }


def largest_tau(curve: Sequence[dict[str, Any]], target: float) -> dict[str, Any] | None:
    """The last point before the first that breaks the promise, in tuning or held out; None if the first one does.

    Not the largest of all that keep it: beyond the first failure a success is luck.
    """
    chosen = None
    for point in curve:
        if min(point["tuning"]["p5"], point["held_out"]["p5"]) < target:
            break
        chosen = point
    return chosen


def shadow_run(path: Path, config: Config, backend: Backend, held_out: Trace, progress: Progress) -> Figures:
    """Run the gated stream itself on the held-out recording and audit every skipped tubelet."""
    audited = replace(config, gate=replace(config.gate, shadow_rate=1.0))
    stream, encoded, tubelets = Stream(audited, backend), 0, 0
    with open_source(path) as source:
        for frame in frames_of(source, round(config.vision.max_megapixels * 1e6)):
            if frame.stamp_ns < held_out.stamps_ns[0]:
                continue
            result = stream.push(frame)
            if result is not None:
                progress(f"auditing {path.name} at the chosen tau")
                encoded, tubelets = encoded + result.encoded, tubelets + 1
                if stream.shadow_due:
                    stream.shadow_evaluate()
    return {**stream.report(), "encode_rate": encoded / max(1, tubelets)}


def params_text(result: dict[str, Any]) -> str:
    """The ROS parameter file of a calibration: what it was made for, and what it chose."""
    config = result["config"]
    sections = {name: dict(config[name]) for name in ("stream", "vision", "gate", "encoder")}
    sections["backend"] = {"precision": config["backend"]["precision"]}
    held_out = ", ".join(recording["name"] for recording in result["recordings"]["held_out"])
    point = result["chosen"]
    head = (
        f"# Written by `saccade calibrate` on {result['date']} for {result['encoder_id']}.\n"
        f"# gate.tau keeps the 5th percentile of the centred cosine between reused and fresh embeddings at\n"
        f"# {result['target']:g} or above: {point['held_out']['p5']:.4f} on what was held out ({held_out}), "
        f"with {point['held_out']['rate']:.0%} of its tubelets encoded.\n\n"
    )
    return head + yaml.safe_dump({"/**": {"ros__parameters": sections}}, sort_keys=False)


def _sizes(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    return [
        {"name": trace.name, "tubelets": len(trace), "seconds": float(np.ptp(trace.stamps_ns)) / 1e9}
        for trace in traces
    ]
