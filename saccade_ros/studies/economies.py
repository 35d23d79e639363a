"""All ways to compute less of a stream, side by side on the same tubelets: `saccade bench economies`.

Each variant (economies_variants.py) encodes each clip as a stream of its own. The variants take turns of some tubelets,
first those that need nothing of others, then the rest, dense in both, so that a change of the machine's speed hits all.
Fidelity is the centred cosine of each embedding to the dense one of the same tubelet, with one centre for all clips. A
generated scene in which nothing but noise happens says how steady embeddings are. The first window is left out.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.backends import Backend
from saccade_ros.config import Config, ConfigError, StreamConfig
from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.spec import ModelSpec, read_spec
from saccade_ros.frames import EmbeddingResult, Frame, TokenPlan
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.metrics import centred_cosine, summarize
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head
from saccade_ros.pipeline import Pipeline, patch_response
from saccade_ros.plan.change import PatchResponse
from saccade_ros.plan.stages import Stage
from saccade_ros.recordings.clip import decode_tubelets
from saccade_ros.studies.baselines import RANGES, gate_replay, match_count
from saccade_ros.studies.economies_pictures import draw as draw
from saccade_ros.studies.economies_pictures import table as table
from saccade_ros.studies.economies_variants import (
    CHANGED,
    DENSE,
    Encoders,
    Scheduled,
    Variant,
    variants,
    whole_tubelets,
)
from saccade_ros.studies.floor import step_work
from saccade_ros.studies.scenes import generated_scenes
from saccade_ros.studies.trace import Trace, common_centre
from saccade_ros.vision.preprocess import resize_to_square, tubelet_pixels

STATIC = "noise"  # the generated scene in which nothing happens
TURN = 8  # tubelets that a variant encodes before the next one's turn: its weights are in the processor's caches then


@dataclass(frozen=True)
class Options(Settings):
    """Clips to encode, and the model; the config says how frames are sampled, and how tokens are chosen."""

    clips: tuple[Path, ...] = required("Bags or videos.", metavar="CLIP", positional=True)
    model: str = knob("", "As encoder.model, which it wins over if it is not empty.")
    limit: int = knob(200, "Tubelets to take of each clip's start. 0 takes all.", at_least=0)
    config: Config = Config(stream=StreamConfig(fps=0.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        name, count = Counter(path.name for path in self.clips).most_common(1)[0]
        if count > 1:
            raise ConfigError(f"{count} clips are named {name}: rename some, the record tells clips apart by name")


class Recording(NamedTuple):
    """Frames of T tubelets, sampled and square, two of each."""

    name: str
    frames: list[Frame]


class Run(NamedTuple):
    """One variant's way through a recording of T tubelets.

    Attributes:
        vectors: embeddings, (T, dim).
        plans: tokens computed, of each tubelet.
        computed: how many, those of a step that could not stand included, (T,).
        encode_ms, plan_ms: time of the step, and of patch embedding and planning, (T,).
    """

    vectors: npt.NDArray[np.float32]
    plans: list[TokenPlan]
    computed: npt.NDArray[np.int64]
    encode_ms: npt.NDArray[np.float64]
    plan_ms: npt.NDArray[np.float64]


Runs = dict[str, dict[str, Run]]  # by recording and variant


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Encode all recordings in every variant; return the record.

    Raises:
        SourceError: a clip cannot be read.
        WeightsError, ConfigError, ValueError: the model cannot be used, or no clip is longer than its window.
    """
    progress("loading", 0.0)
    config = options.config
    if options.model:
        config = replace(config, encoder=replace(config.encoder, model=options.model))
    spec = read_spec(config.encoder.model)
    pipelines, left_out = _open(variants(config, spec))
    study = _Study(config, spec, pipelines)
    recordings = _recordings(options, config, spec.input_size)
    for i, recording in enumerate(recordings):
        study.encode(recording, subrange(progress, i / len(recordings), 1 / len(recordings)))
    dense, info = pipelines[0][1], pipelines[0][1].backend.info
    return {
        "bench": "economies",
        **record_head(info.weights, info.weights_sha256),
        "model": config.encoder.model,
        "encoder_id": info.encoder_id,
        "window": info.window,
        "precision": info.precision,
        "threads": info.threads,
        "fps": config.stream.fps,
        "tokens": spec.tokens,
        "clips": [{"name": trace.name, "tubelets": len(trace)} for trace in study.traces[:-1]],
        "kv_bound": _kv_bound(spec, dense.config),
        "rows": study.rows(),
        "left_out": left_out,
    }


def _open(chosen: Iterable[Variant]) -> tuple[list[tuple[Variant, Pipeline]], dict[str, str]]:
    """Open the pipeline of each variant that this machine can compute; of the others, say why not."""
    encoders, pipelines, left_out = Encoders(), [], {}
    for variant in chosen:
        try:
            pipelines.append((variant, encoders.open(variant)))
        except RuntimeError as refused:
            left_out[variant.name] = str(refused)
    return pipelines, left_out


def _recordings(options: Options, config: Config, size: int) -> list[Recording]:
    """The clips, then the static scene, of which every frame is taken."""
    fit, limit = config.vision.fit, options.limit or None
    found = []
    for path in options.clips:
        frames: list[Frame] = []
        for tubelet in itertools.islice(decode_tubelets(path, config), limit):
            for picture, stamp_ns in ((tubelet.older, tubelet.older_ns), (tubelet.newer, tubelet.newer_ns)):
                frames.append(Frame(resize_to_square(picture, size, fit), stamp_ns))
        found.append(Recording(path.name, frames))
    scene = next(scene for scene in generated_scenes() if scene.name == STATIC)
    shown = itertools.islice(scene.frames(), 2 * limit if limit else None)
    return [
        *found,
        Recording(STATIC, [Frame(resize_to_square(frame.image, size, fit), frame.stamp_ns) for frame in shown]),
    ]


class _Study:
    """Every variant on every recording.

    Attributes:
        traces: of the recordings encoded, the clips first.
    """

    def __init__(self, config: Config, spec: ModelSpec, pipelines: Sequence[tuple[Variant, Pipeline]]) -> None:
        self._config, self._spec, self._pipelines = config, spec, pipelines
        self._backend = pipelines[0][1].backend
        self._response = patch_response(self._backend)
        self._runs: Runs = {}
        self.traces: list[Trace] = []

    def encode(self, recording: Recording, progress: Progress) -> None:
        """Encode a recording in every variant: those that follow `changed` after it, and dense again with them."""
        own = [pair for pair in self._pipelines if pair[0].turns == 1]
        rest = [pair for pair in self._pipelines if pair not in own]
        first = take_turns(recording, {v.name: (pipeline, ()) for v, pipeline in own}, subrange(progress, 0.0, 0.8))
        trace = trace_of(recording, self._backend, first[DENSE].vectors)
        following = {v.name: (pipeline, self._stages(v, trace, first[CHANGED])) for v, pipeline in rest}
        self._runs[recording.name] = first | take_turns(recording, following, subrange(progress, 0.8, 0.2))
        self.traces.append(replace(trace, features=trace.features[:, :0]))  # of no more use, and large

    def _stages(self, variant: Variant, trace: Trace, changed: Run) -> tuple[Stage, ...]:
        """Make the schedule of a variant that follows `changed`."""
        if variant.plans == "own":
            return ()
        if variant.plans == "changed":
            return (Scheduled(changed.plans),)
        centre = common_centre([trace], self._config.encoder.window)
        encoded = match_gate(variant.plans, trace, self._config, self._response, centre, changed.computed)
        return (Scheduled(whole_tubelets(encoded, self._spec.tokens)),)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each variant."""
        centre = common_centre(self.traces[:-1], self._config.encoder.window)
        return [self._row(variant, pipeline, centre) for variant, pipeline in self._pipelines]

    def _row(self, variant: Variant, pipeline: Pipeline, centre: npt.NDArray[np.float32]) -> dict[str, Any]:
        *clips, static = (self._figures(variant, trace, centre) for trace in self.traces)
        names = [trace.name for trace in self.traces[:-1]]
        judged = [self._judged(trace) for trace in self.traces[:-1]]
        times_ms = np.concatenate(
            [self._runs[name][variant.name].encode_ms[mask] for name, mask in zip(names, judged, strict=True)]
        )
        share = _mean(clips, "share")
        return {
            "name": variant.name,
            "family": variant.family,
            "share": share,
            "share_static": static["share"],
            **_times(times_ms),
            "turns": variant.turns,
            "time_to_dense": self._time_to_dense(variant, clips),
            "plan_ms_p50": float(np.median([clip["plan_ms_p50"] for clip in clips])),
            "gflop": _flops(variant, self._spec, share, _mean(clips, "projected")) / 1e9,
            "cache_bytes": pipeline.backend.info.cache_bytes,
            "mean": _mean(clips, "mean"),
            "p5": min(clip["p5"] for clip in clips),
            "worst": min(clip["worst"] for clip in clips),
            "stability": self._stability(variant, centre),
            "worst_age_s": max(clip["worst_age_s"] for clip in (*clips, static)),
            "clips": dict(zip(names, clips, strict=True)),
        }

    def _time_to_dense(self, variant: Variant, clips: Sequence[Mapping[str, float]]) -> float:
        """Mean time of a tubelet over that of the dense variant it took turns with: the median of the clips."""
        dense = next(v for v, _ in self._pipelines if v.family == "dense" and v.turns == variant.turns)
        runs = [(self._runs[trace.name][dense.name], self._judged(trace)) for trace in self.traces[:-1]]
        whole = (float(run.encode_ms[judged].mean()) for run, judged in runs)
        return float(np.median([clip["ms_mean"] / ms for clip, ms in zip(clips, whole, strict=True)]))

    def _judged(self, trace: Trace) -> npt.NDArray[np.bool_]:
        return ~trace.warm(self._config.encoder.window)

    def _figures(self, variant: Variant, trace: Trace, centre: npt.NDArray[np.float32]) -> dict[str, float]:
        """Figures of a variant on one recording."""
        runs, judged = self._runs[trace.name], self._judged(trace)
        one, tokens = runs[variant.name], self._spec.tokens
        cosines = summarize(centred_cosine(one.vectors, runs[DENSE].vectors, centre)[judged])
        projected = float(one.computed[judged].mean()) / tokens
        passes = float((one.computed[judged] > 0).mean())
        return {
            "share": passes if variant.encoder == "reusing" else projected,
            "projected": projected,
            **cosines._asdict(),
            **_times(one.encode_ms[judged]),
            "plan_ms_p50": float(np.median(one.plan_ms[judged])),
            "worst_age_s": float(ages_s(one.plans, trace.stamps_ns, tokens)[judged].max()),
        }

    def _stability(self, variant: Variant, centre: npt.NDArray[np.float32]) -> float:
        """Mean change from step to step on the static scene, over the mean centred length."""
        trace = self.traces[-1]
        vectors = self._runs[trace.name][variant.name].vectors[self._judged(trace)]
        lengths = np.linalg.norm(vectors - centre, axis=1)
        return float(np.linalg.norm(np.diff(vectors, axis=0), axis=1).mean() / lengths.mean())


def take_turns(
    recording: Recording, streams: Mapping[str, tuple[Pipeline, tuple[Stage, ...]]], progress: Progress
) -> dict[str, Run]:
    """Encode a recording by each of these pipelines, with these further stages of the plan, some tubelets in turn."""
    running = {
        name: pipeline.open_stream(recording.name, stages=stages).run(recording.frames)
        for name, (pipeline, stages) in streams.items()
    }
    results: dict[str, list[EmbeddingResult]] = {name: [] for name in streams}
    for start in range(0, len(recording.frames) // 2, TURN):
        progress(recording.name, 2 * start / len(recording.frames))
        for name, stream in running.items():
            results[name] += [result for _, result in itertools.islice(stream, TURN)]
    return {name: _run_of(found) for name, found in results.items()}


def _run_of(results: Sequence[EmbeddingResult]) -> Run:
    return Run(
        np.stack([result.vector for result in results]),
        [result.plan for result in results],
        np.array([result.tokens_computed for result in results]),
        np.array([result.encode_ms for result in results]),
        np.array([result.gate_ms for result in results]),
    )


def trace_of(recording: Recording, backend: Backend, vectors: npt.NDArray[np.float32]) -> Trace:
    """Make the trace that gates are matched on, of a recording's dense embeddings (T, dim)."""
    older, newer = recording.frames[::2], recording.frames[1::2]
    size = backend.info.input_size
    features = [
        backend.embed(tubelet_pixels(a.image, b.image, size, "stretch")).features.copy()
        for a, b in zip(older, newer, strict=False)
    ]
    grey = [cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY).astype(np.uint8) for frame in newer]
    stamps_ns = np.array([frame.stamp_ns for frame in newer], np.int64)
    return Trace(recording.name, np.stack(features), vectors, np.stack(grey), stamps_ns, np.zeros_like(stamps_ns))


def match_gate(
    policy: str,
    trace: Trace,
    config: Config,
    response: PatchResponse,
    centre: npt.NDArray[np.float32],
    computed: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Find the threshold at which a gate encodes as many tokens after the warm-up; return what it encodes, (T,).

    Args:
        policy: of gate.policy.
        computed: tokens of each tubelet that are to be matched, (T,).
    """
    window, warm = config.encoder.window, trace.warm(config.encoder.window)
    tubelets = round(float(computed[~warm].sum()) / trace.features.shape[1])
    count = int(warm.sum()) + min(tubelets, int((~warm).sum()))
    replay = gate_replay(trace, replace(config.gate, policy=policy), response, centre, window)
    return match_count(replay, count, *RANGES[policy])[1]


def ages_s(plans: Sequence[TokenPlan], stamps_ns: npt.NDArray[np.int64], tokens: int) -> npt.NDArray[np.float64]:
    """Age in seconds of the oldest token that each tubelet's embedding is made of, (T,)."""
    computed_ns, oldest_s = np.full(tokens, stamps_ns[0]), np.zeros(len(plans))
    for t, (plan, stamp_ns) in enumerate(zip(plans, stamps_ns, strict=True)):
        computed_ns[plan.token_idx] = stamp_ns
        oldest_s[t] = (stamp_ns - computed_ns.min()) / 1e9
    return oldest_s


def _flops(variant: Variant, spec: ModelSpec, share: float, projected: float) -> float:
    """Operations of a tubelet, in the mean: they are proportional to the tokens computed.

    Args:
        share: of the tokens computed.
        projected: share of the tokens whose keys and values are computed.
    """
    encoder = variant.config.encoder
    areas = Areas.of(spec, *encoder.area_shape, encoder.area_layers)
    whole = step_work(spec, encoder.window, 1, 1, "fp32", merge=encoder.merge, areas=areas).flops
    return share * whole - (share - projected) * _kv_flops(spec)


def _kv_flops(spec: ModelSpec) -> float:
    """Operations that project the keys and values of a tubelet."""
    return 2.0 * spec.depth * spec.tokens * 2 * spec.width**2


def _kv_bound(spec: ModelSpec, config: Config) -> float:
    """The most that reuse of keys and values can speed a step up, by its operations."""
    whole = step_work(spec, config.encoder.window, 1, 1, "fp32").flops
    return whole / (whole - _kv_flops(spec))


def _times(times_ms: npt.NDArray[np.float64]) -> dict[str, float]:
    p50, p95 = np.percentile(times_ms, (50, 95))
    return {"ms_p50": float(p50), "ms_p95": float(p95), "ms_mean": float(times_ms.mean())}


def _mean(clips: Iterable[Mapping[str, float]], key: str) -> float:
    return float(np.mean([clip[key] for clip in clips]))
