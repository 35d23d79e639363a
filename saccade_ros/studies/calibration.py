"""Prediction of what reuse costs, and the largest gate.tau that keeps a promised fidelity: `saccade calibrate`.

Always-encode runs once over each recording; every tau is then tried on what it left. Recordings are split in two. From
the first part come the mean embedding that fidelity is centred on, the loss expected per change of the window, and tau:
the largest one for which the share of reused embeddings below the target is at most alpha by conformal risk control
(Angelopoulos et al., "Conformal Risk Control", 2022: one more failure is counted than was seen). The second part, held
out, says what the promise is worth. With one recording its last third is held out, with several the last ones. The
bound holds for tubelets that are exchangeable; those of another place or day are not, which is why the gate goes on
measuring (plan/shadow.py).

The promise is the gate's, which encodes a tubelet whole or not at all; so tokens.select is all throughout, and in the
parameters that come of it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.backends import Backend
from saccade_ros.config import Config, GateConfig
from saccade_ros.frames import Figures, Observation, TokenPlan, Vector
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.metrics import centred_cosine
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head, save_record
from saccade_ros.params_file import params_file_text
from saccade_ros.pipeline import Pipeline, patch_response
from saccade_ros.plan.centre import encode_centre
from saccade_ros.plan.change import PatchResponse
from saccade_ros.plan.gate import SurpriseGate
from saccade_ros.plan.novelty import SAFETY
from saccade_ros.plan.patch_change import PatchChange
from saccade_ros.recordings import open_source
from saccade_ros.recordings.clip import frames_of
from saccade_ros.storage import write_file
from saccade_ros.studies.baselines import RANGES, Score, gate_replay, score
from saccade_ros.studies.plots import draw_calibration
from saccade_ros.studies.trace import Trace, common_centre, record

TAUS = np.geomspace(0.001, 1.0, 40)
BASELINE_POINTS = 16
SPACING = 12  # tubelets between the encodes from which the loss per change is fitted
SMALL, LARGE = 0.003, 0.1  # losses of which it is fitted: below is noise, above all pictures are alike unlike
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
        "Centred cosine between a reused embedding and the fresh one that is to be kept.",
        at_least=0.001,
        at_most=0.999999999,
        metavar="COSINE",
    )
    alpha: float = knob(
        0.05, "Largest share of the reused embeddings that may fall below it.", at_least=0.0001, at_most=0.9999
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
    target, alpha = options.target_fidelity, options.alpha
    config = replace(options.config, tokens=replace(options.config.tokens, select="all"))
    progress("loading the model", 0.0)
    gate = replace(config.gate, enabled=True, mode="fixed", calibrated_for="", centre="", shadow_rate=1.0)
    pipeline = Pipeline(replace(config, gate=gate))
    info = pipeline.backend.info
    traces = _traces(options.sources, pipeline, subrange(progress, 0.0, 0.7))
    tuning, held_out = split(traces)
    window, response = config.encoder.window, patch_response(pipeline.backend)
    centre = common_centre(tuning, window)
    gate = replace(gate, policy="predicted", centre=encode_centre(centre), calibrated_for=info.encoder_id)
    gate = replace(gate, loss_per_change=fit_loss_per_change(tuning, gate, response, centre, window))
    found = {
        name: reuse_answers(part, gate, response, centre, window)
        for name, part in (("tuning", tuning), ("held_out", held_out))
    }
    curves = sweep(tuning, held_out, gate, response, centre, window, target, subrange(progress, 0.7, 0.15))
    chosen = largest_tau(curves["predicted"], alpha)
    tau = chosen["threshold"] if chosen else None
    calibrated = replace(gate, tau=tau or 0.0)
    shadow = None
    if chosen:
        gated = replace(config, gate=calibrated)
        shadow = shadow_run(options.sources[-1], gated, pipeline.backend, held_out[-1], subrange(progress, 0.85, 0.15))
    return {
        "calibration": "gate.tau",
        **record_head(info.weights, info.weights_sha256),
        "target": target,
        "alpha": alpha,
        "tau": tau,
        "loss_per_change": gate.loss_per_change,
        "answers": {name: [[round(v, 5) for v in pair] for pair in pairs] for name, pairs in found.items()},
        "rank_correlation": rank_correlation(np.array(found["held_out"])),
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


def reuse_answers(
    traces: Sequence[Trace], gate: GateConfig, response: PatchResponse, centre: Vector, window: int
) -> list[tuple[float, float]]:
    """Expected and found loss of the embeddings reused between encodes SPACING tubelets apart, of all recordings."""
    return [pair for trace in traces for pair in _answers(trace, gate, response, centre, window)]


def _answers(
    trace: Trace, config: GateConfig, response: PatchResponse, centre: Vector, window: int
) -> Iterator[tuple[float, float]]:
    gate = SurpriseGate(config, PatchChange(response), window)  # asked for its measure only
    dense, last = TokenPlan.dense(trace.features.shape[1], "dense"), 0
    warm = trace.warm(window)
    for t in range(len(trace)):
        seen = Observation(trace.features[t], int(trace.stamps_ns[t]), trace.pixels(t))
        if t and trace.epochs[t] != trace.epochs[t - 1]:
            gate.reset()
        first = gate.propose(seen, dense).reason == "first"
        encodes = first or warm[t] or t - last >= SPACING
        if not encodes:
            loss = 1 - float(centred_cosine(trace.vectors[last], trace.vectors[t], centre))
            yield gate.measured.novelty / SAFETY, loss
        gate.commit(seen, dense if encodes else TokenPlan.reuse())
        last = t if encodes else last


def fit_loss_per_change(
    traces: Sequence[Trace], gate: GateConfig, response: PatchResponse, centre: Vector, window: int
) -> float:
    """Median loss found per change of the window, each recording counting once; gate's own where nothing changes."""
    unit, ratios = replace(gate, loss_per_change=1.0), []
    for trace in traces:
        found = [
            loss / change
            for change, loss in _answers(trace, unit, response, centre, window)
            if SMALL <= loss <= LARGE and change > 0
        ]
        ratios += [float(np.median(found))] if found else []
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else gate.loss_per_change


def rank_correlation(pairs: npt.NDArray[np.float64]) -> float:
    """Compute Spearman's rank correlation of N pairs, (N, 2); NaN for fewer than three."""
    if len(pairs) < 3:
        return math.nan
    ranks = pairs.argsort(axis=0).argsort(axis=0)  # (N, 2)
    return float(np.corrcoef(ranks.T)[0, 1])


def sweep(
    tuning: Sequence[Trace],
    held_out: Sequence[Trace],
    gate: GateConfig,
    response: PatchResponse,
    centre: Vector,
    window: int,
    target: float,
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Score each policy at many thresholds, on the recordings to tune on and on the held-out ones."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for policy, (low, high) in RANGES.items():
        thresholds = TAUS if policy == "predicted" else np.geomspace(low, high, BASELINE_POINTS)
        config = replace(gate, policy=policy)
        parts = [
            [(trace, gate_replay(trace, config, response, centre, window)) for trace in part]
            for part in (tuning, held_out)
        ]
        curves[policy] = []
        for i, threshold in enumerate(thresholds.tolist()):
            progress(f"sweeping policy {policy}", (len(curves) - 1 + i / len(thresholds)) / len(RANGES))
            scores = [[score(t, replay(threshold), centre, window, target) for t, replay in part] for part in parts]
            curves[policy].append({"threshold": threshold, "tuning": _over(scores[0]), "held_out": _over(scores[1])})
    return curves


def _over(scores: Sequence[Score]) -> dict[str, float]:
    """Mean fraction encoded, least fidelity, and embeddings below the target, over several recordings."""
    reused, below = sum(s.reused for s in scores), sum(s.below for s in scores)
    return {
        "rate": float(np.mean([s.rate for s in scores])),
        "mean": min(s.mean for s in scores),
        "p5": min(s.p5 for s in scores),
        "worst": min(s.worst for s in scores),
        "staleness_s_max": max(s.staleness_s_max for s in scores),
        "reused": reused,
        "below": below / reused if reused else 0.0,
        "risk": (below + 1) / (reused + 1),
    }


def largest_tau(curve: Sequence[dict[str, Any]], alpha: float) -> dict[str, Any] | None:
    """Choose the last point before the first that breaks the promise where it is tuned; None if the first one does.

    Not the largest of all that keep it: beyond the first failure a success is luck. Points that reuse too little to
    promise anything are passed over.
    """
    chosen = None
    for point in curve:
        if point["tuning"]["below"] > alpha:
            break
        chosen = point if point["tuning"]["risk"] <= alpha else chosen
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
            f"no tau keeps all but {record['alpha']:.0%} of the reused embeddings at {record['target']}: the picture "
            "shows what can be had; give longer recordings, raise --alpha, "
            "lower --target-fidelity, or set gate.enabled: false to encode everything"
        )
    config = record["config"]
    sections = {name: dict(config[name]) for name in ("stream", "vision", "gate", "tokens", "encoder")}
    sections["backend"] = {"precision": config["backend"]["precision"]}
    names = ", ".join(recording["name"] for recording in record["recordings"]["held_out"])
    held_out = record["chosen"]["held_out"]
    head = (
        f"Written by `saccade calibrate` on {record['date']} for {record['encoder_id']}.\n"
        f"gate.tau keeps the centred cosine of all but {record['alpha']:.0%} of the reused embeddings to the fresh\n"
        f"ones at {record['target']:g} or above. On what was held out ({names}) {held_out['below']:.1%} fell below,\n"
        f"with {held_out['rate']:.0%} of the tubelets encoded.\n"
        f"That holds with tokens.select all: with a token selection, gate.tau decides in budget mode alone."
    )
    return params_file_text(sections, head)


def table(record: dict[str, Any]) -> str:
    """State the choice in a line, and the fidelity of the gated stream by shadow evaluation."""
    if record["tau"] is None:
        return f"no tau keeps all but {record['alpha']:.0%} of the reused embeddings at {record['target']}"
    held_out, shadow = record["chosen"]["held_out"], record["shadow"]
    lines = [
        f"gate.tau {record['tau']:.4f}, loss per change {record['loss_per_change']:.3f}: held out, "
        f"{held_out['rate']:.0%} encoded, {held_out['below']:.1%} of the reused below {record['target']:g}"
    ]
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
