"""One stream's way from camera message to embedding, top to bottom.

    offer    on the receiving thread, O(1): check the header, count, sample by stamp, pair; the newest tubelet waits
    decode   on any one thread: decode, preprocess
    embed    on the thread that owns the model: embed patches, plan, step or reuse, classify, emit

    pipeline = Pipeline(Config())
    camera = pipeline.open_stream()
    for frame in frames:
        result = camera.push(frame)      # offer, decode and embed; None until a tubelet is complete

The node, the replay in process, the library, calibration and the studies all use these classes.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from saccade_ros import default_model
from saccade_ros.backends import Backend, load_backend
from saccade_ros.config import Config, ConfigError, GateConfig, TokensConfig
from saccade_ros.encoding import Encoding
from saccade_ros.faults import strike
from saccade_ros.frames import Decoded, EmbeddingResult, Figures, Frame, Observation, Tubelet
from saccade_ros.heads import Head, load_head
from saccade_ros.intake import Intake
from saccade_ros.plan.change import PatchResponse
from saccade_ros.plan.gate import Gate, OpenGate, SurpriseGate
from saccade_ros.plan.patch_change import PatchChange
from saccade_ros.plan.shadow import FidelityMonitor
from saccade_ros.plan.stages import Planner, Stage
from saccade_ros.plan.tokens import select_tokens
from saccade_ros.plan.widening import explain_widening
from saccade_ros.stepping import Work, run_alone
from saccade_ros.vision.images import Convert, MalformedImage, convert_with_rosbags
from saccade_ros.vision.ledger import FrameLedger, LateTubelet
from saccade_ros.vision.preprocess import pair_pixels, view_of
from saccade_ros.vision.target import Square

Emit = Callable[[Tubelet, EmbeddingResult], None]

_log = logging.getLogger(__name__)


class Pipeline:
    """A loaded model, shared by any number of streams. Encode from one thread at a time.

    Args:
        backend: the model if it is loaded already; else the config's is.
        head: classifier of the embeddings; where none is given, that of encoder.head, else the checkpoint's own.
        warn: told once if tokens are selected and the encoder can only compute all of them (plan/widening.py), and of a
            stream whose 16-bit images keep few grey levels (vision/levels.py).

    Raises:
        BackendError, WeightsError, HeadError, ConfigError, ValueError: the model cannot be loaded as configured.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend | None = None,
        head: Head | None = None,
        warn: Callable[[str], object] = _log.warning,
    ) -> None:
        self.config, self.warn = config, warn
        strike("load")
        self.backend = backend or load_backend(config.encoder, config.backend, config.vision.fit)
        wanted, found = config.gate.calibrated_for, self.backend.info.encoder_id
        if config.gate.enabled and wanted and wanted != found:
            raise ConfigError(
                f"gate.calibrated_for is {wanted!r}, but the encoder is {found!r}: gate.tau means nothing for it; "
                "run `saccade calibrate` with this encoder, or clear gate.calibrated_for and choose gate.tau yourself"
            )
        file, info = config.encoder.head, self.backend.info
        own = load_head(Path(file), info.encoder_id, info.dim) if file else self.backend.head
        self.head = head or own
        self.head.classify(np.zeros(info.dim, np.float32))  # a head of another size is refused here
        if widened := explain_widening(config, info.backend, info.device, info.token_counts):
            warn(widened)
        if uncalibrated := explain_uncalibrated(config, info.weights_random):
            warn(uncalibrated)

    def warm_up(self) -> None:
        """Encode one grey tubelet on a cache of its own: broken weights or too little memory show now, not later."""
        size = self.backend.info.input_size
        patches, _ = self.backend.embed(np.zeros((2, 3, size, size), np.float32))
        strike("step")
        self.backend.new_state().step(patches)

    def open_stream(
        self, name: str = "", convert: Convert = convert_with_rosbags, stages: Sequence[Stage] = ()
    ) -> "Stream":
        """Open one camera's stream.

        Args:
            name: its topic, for messages.
            convert: decodes raw image messages.
            stages: further stages of the plan, after the gate.
        """
        return Stream(self, name, convert, stages)


class Stream:
    """One camera: its intake, its plan, its state in the encoder, and its last embedding. See the module's head.

    Attributes:
        backend: the encoder, which the pipeline's streams share.
        published, encoded: tubelets emitted, and those of them that the encoder ran for.
        tokens, tokens_computed: of the tubelets emitted, all tokens, and those that the encoder computed.
        latency_ms: of the last embedding, from its newer frame received to emitted.
    """

    def __init__(self, pipeline: Pipeline, name: str, convert: Convert, stages: Sequence[Stage]) -> None:
        config, backend = pipeline.config, pipeline.backend
        self.name, self.intake = name, Intake(config, convert, name, pipeline.warn)
        self.backend, self._square = backend, Square(backend.info.input_size, config.vision.fit)
        self._encoding = Encoding(config, backend, pipeline.head)
        patches, info = PatchChange(patch_response(backend)), backend.info
        self._selection = select_tokens(config.tokens, patches, info.window, info.reach, info.token_counts)
        self._gate: Gate = OpenGate(config.gate)
        if config.gate.enabled:
            self._gate = SurpriseGate(config.gate, patches, info.window, self._selection.selects)
        self._planner = Planner((self._gate, self._selection, *stages))
        self.published = self.encoded = 0
        self.tokens = self.tokens_computed = 0
        self.latency_ms = 0.0
        self._begin(epoch=0)

    @property
    def ledger(self) -> FrameLedger:
        """Account of every frame."""
        return self.intake.ledger

    @property
    def computed_share(self) -> float:
        """Share of the tokens that were computed, of those that dense encoding computes; 0 before any tubelet."""
        return self.tokens_computed / self.tokens if self.tokens else 0.0

    def offer(self, frame: Frame) -> bool:
        """Take one frame on the receiving thread; see Intake.offer."""
        return self.intake.offer(frame)

    def push(self, frame: Frame) -> EmbeddingResult | None:
        """Offer a frame and encode the tubelet that it completes, if any. Raises what these raise."""
        return self.encode() if self.offer(frame) else None

    def run(self, frames: Iterable[Frame]) -> Iterator[tuple[Tubelet, EmbeddingResult]]:
        """Push frames one after the other; yield each tubelet and its result. Malformed ones are counted only."""
        for tubelet in self.intake.tubelets(frames):
            with suppress(MalformedImage):
                yield tubelet, self.embed(self._decode(tubelet))

    def encode(self, emit: Emit = lambda tubelet, result: None) -> EmbeddingResult | None:
        """Decode and embed the waiting tubelet; None if none waits. Raises what these raise."""
        decoded = self.decode()
        return None if decoded is None else self.embed(decoded, emit)

    def decode(self) -> Decoded | None:
        """Take the waiting tubelet and decode it; None if none waits. If it raises, its frames are counted as dropped.

        Raises:
            MalformedImage: it cannot be decoded.
        """
        tubelet = self.intake.take()
        return None if tubelet is None else self._decode(tubelet)

    def embed(self, decoded: Decoded, emit: Emit = lambda tubelet, result: None) -> EmbeddingResult:
        """Turn a decoded tubelet into an embedding, fresh or reused, and return it; see `embedding`."""
        return run_alone(self.embedding(decoded, emit))

    def embedding(self, decoded: Decoded, emit: Emit = lambda tubelet, result: None) -> Work[EmbeddingResult]:
        """Turn a decoded tubelet into an embedding, fresh or reused; whoever runs this computes its steps.

        A tubelet that raises leaves the stream as it was, and its frames are counted as dropped.

        Args:
            emit: called with the tubelet and its result before its frames count as used; what it raises is passed on.

        Raises:
            LateTubelet: from `emit`.
            ValueError, ArithmeticError: NaN or infinity in the input or the model.
        """
        tubelet = decoded.tubelet
        with self._accounting():
            result = yield from self._embed(decoded)
            emit(tubelet, result)
        self.ledger.use(2)
        self.latency_ms = (time.monotonic() - tubelet.newer.received_s) * 1e3
        self.tokens, self.tokens_computed = self.tokens + result.tokens, self.tokens_computed + result.tokens_computed
        self.published, self.encoded = self.published + 1, self.encoded + result.encoded
        return result

    @contextmanager
    def _accounting(self) -> Iterator[None]:
        """Count the frames of a tubelet that raises as dropped, whatever it raises, and pass that on."""
        try:
            yield
        except MalformedImage as malformed:
            self.ledger.drop(malformed.cause, detail=str(malformed))
            self.ledger.drop("partner")
            raise
        except LateTubelet as late:
            self.ledger.drop("late", 2, str(late))
            raise
        except BaseException as failed:
            self.ledger.drop("encoder_error", 2, f"{type(failed).__name__}: {failed}")
            raise

    def _decode(self, tubelet: Tubelet) -> Decoded:
        """Decode and preprocess."""
        queue_ms, clock = (time.monotonic() - tubelet.newer.received_s) * 1e3, _StageClock()
        with self._accounting():
            pixels = pair_pixels(*self.intake.decode_pair(tubelet, self._square))
        return Decoded(tubelet, pixels, tubelet.picture_size, queue_ms, clock.lap_ms())

    def _embed(self, decoded: Decoded) -> Work[EmbeddingResult]:
        """Embed patches, plan, step or reuse, classify."""
        tubelet, pixels, (height, width), queue_ms, decode_ms = decoded
        if tubelet.epoch != self._epoch or self._encoding.vector is None:
            self._begin(tubelet.epoch)
        clock = _StageClock()
        patches, features = self.backend.embed(pixels)
        seen = Observation(features, tubelet.stamp_ns, pixels)
        plan = self._planner.propose(seen)
        gate_ms = clock.lap_ms()

        encoding = self._encoding
        if plan.size:
            plan = yield from encoding.encode(patches, plan, len(features), self._selection.sample, tubelet.stamp_ns)
            self._selection.care = encoding.care
            self._gate.learn(encoding.reuse_loss)
        else:
            encoding.reuse(patches)
        encode_ms = clock.lap_ms() if plan.size else 0.0
        self._planner.commit(seen, plan)
        self.shadow.record_age((tubelet.stamp_ns - encoding.encoded_stamp_ns) / 1e9)
        gate_ms += clock.lap_ms()

        assert encoding.vector is not None  # a gate that remembers nothing asks for a dense step
        measured, grid = self._gate.measured, int(len(features) ** 0.5)
        return EmbeddingResult(
            vector=encoding.vector,
            plan=plan,
            tokens=len(features),
            tokens_computed=encoding.tokens_computed,
            novelty=measured.novelty,
            novelty_threshold=measured.threshold,
            onset=self._gate.onset,
            patch_novelty=None if measured.patches is None else measured.patches.reshape(grid, grid),
            view=view_of(height, width, self._square.size, self._square.fit),
            stamp_ns=tubelet.stamp_ns,
            frame_id=tubelet.frame_id,
            encoded_stamp_ns=encoding.encoded_stamp_ns,
            reuse_count=encoding.reuse_count,
            stream_epoch=tubelet.epoch,
            tubelet_index=tubelet.index,
            window_fill=encoding.fill,
            queue_ms=queue_ms,
            decode_ms=decode_ms,
            gate_ms=gate_ms,
            encode_ms=encode_ms,
            label=encoding.classification.label,
            score=encoding.classification.score,
        )

    def _begin(self, epoch: int) -> None:
        """Forget everything seen: an empty cache, and nothing to reuse."""
        self._epoch = epoch
        self._encoding.reset()
        self._planner.reset()

    @property
    def shadow(self) -> FidelityMonitor:
        """Shadow evaluations of reused embeddings."""
        return self._encoding.shadow

    @property
    def shadow_due(self) -> bool:
        """True if the last tubelet was reused and gate.shadow_rate asks for its shadow evaluation."""
        return self._encoding.is_shadow_due(self._gate.config.shadow_rate)

    def evaluate_shadow(self) -> float:
        """Encode the tubelet that was just skipped, without a trace, and note how wrong reuse was.

        Costs one step, in whose time nothing else can be encoded: the caller says when that is harmless.

        Returns:
            The milliseconds it took.

        Raises:
            RuntimeError: no tubelet was skipped.
        """
        return self._encoding.evaluate_shadow()

    @property
    def underestimates_loss(self) -> bool:
        """True if reuse costs more than the gate may correct its prediction by."""
        return self._gate.underestimates

    def set_tokens(self, config: TokensConfig) -> None:
        """Use these settings of the token selection from the next tubelet on."""
        self._selection.config = config

    def set_gate(self, config: GateConfig) -> None:
        """Use these thresholds from the next tubelet on."""
        self._gate.config = config

    def reset(self) -> None:
        """Start afresh: the next tubelet is encoded with an empty cache; see Intake.restart."""
        self.intake.restart()

    def report(self) -> Figures:
        """Threshold and budget of the gate, age of the embeddings, and fidelity by shadow evaluation."""
        return {**self._planner.state(), **self.shadow.state()}


class _StageClock:
    """Durations of consecutive stages."""

    def __init__(self) -> None:
        self._last_s = time.perf_counter()

    def lap_ms(self) -> float:
        """Milliseconds since the last lap."""
        now_s = time.perf_counter()
        elapsed_ms, self._last_s = (now_s - self._last_s) * 1e3, now_s
        return elapsed_ms


def explain_uncalibrated(config: Config, weights_random: bool) -> str:
    """Say that the gate decides by a fit to another encoder; empty if it does not decide, or is calibrated."""
    gate, selects = config.gate, config.tokens.select != "all"
    decides = gate.enabled and gate.policy == "predicted" and not (selects and gate.mode == "fixed")
    if not decides or gate.calibrated_for or weights_random or config.encoder.model == default_model.NAME:
        return ""
    return (
        f"gate.loss_per_change ({gate.loss_per_change:g}) was fitted to the default model, not to "
        f"{config.encoder.model}: the gate corrects it as it goes; run `saccade calibrate` for a gate.tau that keeps "
        "its promise"
    )


def patch_response(backend: Backend) -> PatchResponse:
    """Response of the backend's patch embedding to a grey picture, which is the same for every patch."""
    size = backend.info.input_size
    grey = backend.embed(np.zeros((2, 3, size, size), np.float32)).features[0].copy()
    return PatchResponse(grey, backend.info.patch_scale)
