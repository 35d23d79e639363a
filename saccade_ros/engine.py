"""The whole story: frames in, embeddings out, and the encoder runs only when the gate sees something new.

engine = Engine(Config(encoder=EncoderConfig(model="models/vitl")))
camera = engine.open_stream()
for frame in frames:
    result = camera.push(frame)      # None until a tubelet is complete
"""

import time
from collections.abc import Callable
from typing import Any, Generic

import numpy as np

from saccade_ros.backends import Backend, load_backend
from saccade_ros.config import Config, ConfigError, GateConfig
from saccade_ros.frames import EmbeddingResult, Figures, Frame, Item, Picture, Tubelet, Vector
from saccade_ros.heads import UNCLASSIFIED, Head
from saccade_ros.plan.gate import Gate, OpenGate, SurpriseGate
from saccade_ros.plan.patches import PatchResponse
from saccade_ros.plan.shadow import FidelityMonitor, decode_centre, is_shadowed
from saccade_ros.plan.stages import Planner
from saccade_ros.vision.ledger import FrameLedger
from saccade_ros.vision.preprocess import tubelet_pixels, view_of
from saccade_ros.vision.tubelet import TubeletBuffer


class Engine:
    """One loaded model, shared by any number of streams. Use it from one thread at a time.

    Args:
        head: names each embedding; the checkpoint's own classifier, if it has one, where none is given.

    Raises:
        BackendError, WeightsError, ConfigError, ValueError: the model cannot be loaded as configured; says why.
    """

    def __init__(self, config: Config, backend: Backend | None = None, head: Head | None = None) -> None:
        self.config = config
        self.backend = backend or load_backend(config.encoder, config.backend)
        wanted, found = config.gate.calibrated_for, self.backend.info.encoder_id
        if config.gate.enabled and wanted and wanted != found:
            raise ConfigError(
                f"gate.calibrated_for is {wanted!r}, but the encoder is {found!r}: gate.tau means nothing for it; "
                "run `saccade calibrate` with this encoder, or clear gate.calibrated_for and choose gate.tau yourself"
            )
        self.head = head or self.backend.head
        self.head.classify(np.zeros(self.backend.info.dim, np.float32))  # one that does not fit shows now

    def warm_up(self) -> None:
        """Encode one grey tubelet on a cache of its own: broken weights or too little memory show now, not later."""
        size = self.backend.info.input_size
        patches, _ = self.backend.embed(np.zeros((2, 3, size, size), np.float32))
        self.backend.new_state().step(patches)

    def open_stream(self) -> "Stream":
        """A new camera, fed with decoded frames."""
        return Stream(self.config, self.backend, self.head)


class StreamEncoder(Generic[Item]):
    """Turns one stream's tubelets into embeddings: decode, preprocess, embed patches, ask the gate, encode or reuse.

    Args:
        decode: makes an RGB picture of what the tubelets hold.
        head: names the embeddings; the backend's own where none is given.
    """

    _vector: Vector | None

    def __init__(
        self, config: Config, backend: Backend, decode: Callable[[Item], Picture], head: Head | None = None
    ) -> None:
        self._config, self._backend, self._decode = config, backend, decode
        self._head = head or backend.head
        self._state = backend.new_state()
        self._gate: Gate = OpenGate(config.gate)
        if config.gate.enabled:
            self._gate = SurpriseGate(config.gate, patch_response(backend))
        self._planner = Planner((self._gate,))
        centre = decode_centre(config.gate.centre, backend.info.dim) if config.gate.centre else None
        self._fidelity = FidelityMonitor(centre)
        self._skips = 0
        self._skipped: Any = None  # patches of the last tubelet, if it was skipped
        self._forget(epoch=0)

    def set_gate(self, config: GateConfig) -> None:
        """Use these thresholds from the next tubelet on."""
        self._gate.config = config

    def encode(self, tubelet: Tubelet[Item]) -> EmbeddingResult:
        """One embedding per tubelet, fresh or reused. A tubelet that raises leaves the stream as it was.

        Raises:
            MalformedImage: from decoding.
            ValueError, NonFiniteError: NaN or infinity in the input or the model.
        """
        if tubelet.epoch != self._epoch:
            self._forget(tubelet.epoch)
        started = time.perf_counter()
        older, newer = self._decode(tubelet.older), self._decode(tubelet.newer)
        size, fit = self._backend.info.input_size, self._config.vision.fit
        pixels = tubelet_pixels(older, newer, size, fit)

        decoded = time.perf_counter()
        patches, features = self._backend.embed(pixels)
        plan = self._planner.propose(features, tubelet.stamp_ns)

        decided = time.perf_counter()
        if plan.size or self._vector is None:
            self._vector = self._state.step(patches)
            self._verdict = self._head.classify(self._vector)
            encoded = time.perf_counter()
            self._encoded_stamp_ns, self._reuse_count, self._skipped = tubelet.stamp_ns, 0, None
            self._fidelity.record_fresh(self._vector)
        else:
            encoded = decided
            self._reuse_count, self._skipped, self._skips = self._reuse_count + 1, patches, self._skips + 1
        self._planner.commit(features, tubelet.stamp_ns, plan)
        self._fidelity.record_age((tubelet.stamp_ns - self._encoded_stamp_ns) / 1e9)

        measured = self._gate.measured
        return EmbeddingResult(
            vector=self._vector,
            encoded=not self._reuse_count,
            novelty=measured.novelty,
            novelty_threshold=measured.threshold,
            stamp_ns=tubelet.stamp_ns,
            frame_id=tubelet.frame_id,
            encoded_stamp_ns=self._encoded_stamp_ns,
            reuse_count=self._reuse_count,
            epoch=tubelet.epoch,
            index=tubelet.index,
            window_fill=self._state.fill,
            decode_ms=(decoded - started) * 1e3,
            gate_ms=(decided - decoded + time.perf_counter() - encoded) * 1e3,
            encode_ms=(encoded - decided) * 1e3,
            reason=plan.reason,
            onset=self._gate.onset,
            patch_novelty=None if measured.patches is None else measured.patches.reshape(int(len(features) ** 0.5), -1),
            view=view_of(newer.shape[0], newer.shape[1], size, fit),
            label=self._verdict.label,
            score=self._verdict.score,
        )

    @property
    def shadow_due(self) -> bool:
        """Is the last tubelet one that was skipped and that gate.shadow_rate would have audited?"""
        return self._skipped is not None and is_shadowed(self._skips, self._gate.config.shadow_rate)

    def shadow_evaluate(self) -> float:
        """Encode the tubelet that was just skipped, without a trace, and note how wrong reuse was.

        Costs one step, in whose time nothing else can be encoded: the caller says when that is harmless.

        Returns:
            The milliseconds it took.
        """
        if self._skipped is None or self._vector is None:
            raise RuntimeError("no skipped tubelet to audit: ask shadow_due first")
        started = time.perf_counter()
        patches, self._skipped = self._skipped, None
        self._fidelity.record_shadow(self._vector, self._state.peek(patches))
        return (time.perf_counter() - started) * 1e3

    def report(self) -> Figures:
        """The gate's threshold and budget, how old embeddings got, and what the shadow_evaluations found."""
        return {**self._planner.state(), **self._fidelity.state()}

    def _forget(self, epoch: int) -> None:
        self._epoch = epoch
        self._state.reset()
        self._planner.reset()
        self._vector = None
        self._skipped = None
        self._verdict = UNCLASSIFIED
        self._encoded_stamp_ns = 0
        self._reuse_count = 0


class Stream:
    """One camera of an Engine: samples, pairs and encodes decoded frames; `ledger` accounts for each of them."""

    def __init__(self, config: Config, backend: Backend, head: Head | None = None) -> None:
        self.ledger = FrameLedger()
        self._buffer: TubeletBuffer[Frame] = TubeletBuffer(config.stream, self.ledger)
        self._encoder: StreamEncoder[Frame] = StreamEncoder(config, backend, lambda frame: frame.picture, head)

    def push(self, frame: Frame) -> EmbeddingResult | None:
        """Take a frame; return an embedding if it completes a tubelet.

        Raises:
            ValueError: the picture is no RGB uint8 (height, width, 3) array; NonFiniteError: see StreamEncoder.
        """
        _check_picture(frame)
        tubelet = self._buffer.push(frame, frame.stamp_ns, frame.frame_id, frame.picture.shape[:2])
        if tubelet is None:
            return None
        try:
            result = self._encoder.encode(tubelet)
        except Exception:  # counted, whatever it is, and passed on
            self.ledger.drop("encoder_error", 2)
            raise
        self.ledger.use(2)
        return result

    @property
    def shadow_due(self) -> bool:
        """See StreamEncoder: when idle, and this is so, `audit`."""
        return self._encoder.shadow_due

    def shadow_evaluate(self) -> float:
        """See StreamEncoder."""
        return self._encoder.shadow_evaluate()

    def report(self) -> Figures:
        """See StreamEncoder."""
        return self._encoder.report()

    def set_gate(self, config: GateConfig) -> None:
        """Use these thresholds from the next tubelet on."""
        self._encoder.set_gate(config)

    def reset(self) -> None:
        """Start afresh: the next tubelet is encoded with an empty cache."""
        self._buffer.reset("request")


def patch_response(backend: Backend) -> PatchResponse:
    """How the backend's patch embedding answers to uniform light, which is the same for every patch."""
    size = backend.info.input_size
    pixels = np.zeros((4, 2, 3, size, size), np.float32)
    for colour in range(3):
        pixels[1 + colour, :, colour] = 1
    grey, *uniform = (backend.embed(picture).features[0].copy() for picture in pixels)
    return PatchResponse(grey, np.stack(uniform) - grey, backend.info.patch_scale)


def _check_picture(frame: Frame) -> None:
    shape, dtype = frame.picture.shape, frame.picture.dtype
    if dtype != "uint8" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"picture is {dtype} {shape}: give RGB uint8 (height, width, 3); decode other encodings first")
