"""The whole story: frames in, embeddings out, and the encoder runs only when the gate sees something new.

engine = Engine(Config(encoder=EncoderConfig(model="models/vitl")))
camera = engine.open_stream()
for frame in frames:
    result = camera.push(frame)      # None until a tubelet is complete
"""

import time
from collections.abc import Callable
from typing import Generic

import numpy as np

from saccade_ros.backends import Backend, load_backend
from saccade_ros.config import Config, GateConfig
from saccade_ros.frames import EmbeddingResult, Frame, Item, Picture, Tubelet, Vector
from saccade_ros.gate.surprise import Gate, OpenGate, SurpriseGate
from saccade_ros.heads import NOTHING, Head
from saccade_ros.ledger import FrameLedger
from saccade_ros.vision.preprocess import tubelet_pixels
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
        self.head = head or self.backend.head
        self.head.classify(np.zeros(self.backend.facts.dim, np.float32))  # one that does not fit shows now

    def warm_up(self) -> None:
        """Encode one grey tubelet on a cache of its own: broken weights or too little memory show now, not later."""
        size = self.backend.facts.input_size
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
        self._gate: Gate = OpenGate()
        if config.gate.enabled:
            self._gate = SurpriseGate(config.gate, backend.facts.patch_scale)
        self._forget(epoch=0)

    def set_gate(self, config: GateConfig) -> None:
        """Use these thresholds from the next tubelet on."""
        if isinstance(self._gate, SurpriseGate):
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
        pixels = tubelet_pixels(older, newer, self._backend.facts.input_size, self._config.vision.fit)

        decoded = time.perf_counter()
        patches, features = self._backend.embed(pixels)
        decision = self._gate.decide(features, tubelet.stamp_ns)

        decided = time.perf_counter()
        if decision.encode or self._vector is None:
            self._vector = self._state.step(patches)
            self._verdict = self._head.classify(self._vector)
            self._gate.accept(features, tubelet.stamp_ns)
            self._encoded_stamp_ns, self._reuse_count = tubelet.stamp_ns, 0
        else:
            self._reuse_count += 1

        return EmbeddingResult(
            vector=self._vector,
            encoded=not self._reuse_count,
            novelty=decision.novelty,
            novelty_threshold=decision.threshold,
            stamp_ns=tubelet.stamp_ns,
            frame_id=tubelet.frame_id,
            encoded_stamp_ns=self._encoded_stamp_ns,
            reuse_count=self._reuse_count,
            epoch=tubelet.epoch,
            index=tubelet.index,
            window_fill=self._state.fill,
            decode_ms=(decoded - started) * 1e3,
            gate_ms=(decided - decoded) * 1e3,
            encode_ms=0.0 if self._reuse_count else (time.perf_counter() - decided) * 1e3,
            label=self._verdict.label,
            score=self._verdict.score,
        )

    def _forget(self, epoch: int) -> None:
        self._epoch = epoch
        self._state.reset()
        self._gate.reset()
        self._vector = None
        self._verdict = NOTHING
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

    def set_gate(self, config: GateConfig) -> None:
        """Use these thresholds from the next tubelet on."""
        self._encoder.set_gate(config)

    def reset(self) -> None:
        """Start afresh: the next tubelet is encoded with an empty cache."""
        self._buffer.reset("request")


def _check_picture(frame: Frame) -> None:
    shape, dtype = frame.picture.shape, frame.picture.dtype
    if dtype != "uint8" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"picture is {dtype} {shape}: give RGB uint8 (height, width, 3); decode other encodings first")
