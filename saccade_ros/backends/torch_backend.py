"""PyTorch backend, on CPU or CUDA."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from saccade_ros.backends.base import (
    BackendError,
    Embedded,
    EncoderInfo,
    Movement,
    StepRequest,
    streams_together,
    token_buckets,
)
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.cuda_graph import GraphedEncoder
from saccade_ros.encoder.model import StepOutput, StreamingEncoder
from saccade_ros.encoder.pooling import NewestPooling, Pooling, ProbePooling, WindowPooling
from saccade_ros.encoder.positions import Indices
from saccade_ros.encoder.probe import AttentiveProbe
from saccade_ros.encoder.ring import RingCache
from saccade_ros.encoder.weights import LoadedEncoder, fingerprint, load_encoder
from saccade_ros.frames import Pixels, Vector
from saccade_ros.heads import Head, LinearHead, NoHead

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.bfloat16}
Step = Callable[[Sequence[Tensor], Sequence[RingCache], Sequence[Indices | None]], list[StepOutput]]


class TorchBackend:
    """Encoder that the config names, on the device and in the precision asked for.

    Args:
        loaded: the model if it is loaded already, as the config's window, recompute and merge ask for it.
        fit: see `load_backend`.

    Attributes:
        spec: sizes of the encoder.
    """

    def __init__(
        self, encoder: EncoderConfig, backend: BackendConfig, loaded: LoadedEncoder | None = None, fit: str = "crop"
    ) -> None:
        precision = "fp32" if backend.precision == "auto" else backend.precision
        if precision not in DTYPES:
            raise BackendError(
                f"backend.precision is {precision!r}: torch computes {', '.join(DTYPES)}; other precisions come from "
                "an export (saccade export)"
            )
        self._threads = backend.threads or torch.get_num_threads()
        device = _find_device(backend.device)
        loaded = loaded or load_encoder(
            encoder.model,
            encoder.window,
            encoder.recompute,
            encoder.seed,
            adapter=encoder.adapter,
            probe=encoder.pooling == "probe",
            merge=encoder.merge,
            input_size=encoder.input_size,
        )
        self.spec = loaded.encoder.spec
        areas = Areas.of(self.spec, *encoder.area_shape, encoder.area_layers)
        with own_threads(self._threads):
            whole = loaded.encoder.attend_by_area(areas)
            self._encoder = whole.prepare(device, DTYPES[precision], int8=precision == "int8")
        self.head = _head(loaded.probe)
        self._new_pooling = _pooling(encoder.pooling, loaded.probe, self._encoder)
        self.info = EncoderInfo.of(
            self.spec,
            loaded.source,
            loaded.sha256,
            loaded.is_random,
            precision,
            encoder,
            fit,
            areas.name,
            fingerprint(loaded.probe) if loaded.probe else "",
            backend="torch",
            device=device.type,
            threads=self._threads,
            patch_scale=float(self._encoder.patch_embed.weight.norm()),
            cache_bytes=self._encoder.cache_bytes + self._new_pooling().nbytes,
            token_counts=_token_counts(self._encoder),
            holds=self._encoder.window > 1 and self._encoder.recompute == 1 and not self._encoder.merging.merge,
            # on a GPU each stream's step is a captured graph of its own
            together=streams_together(self.spec, self._encoder.recompute) if device.type == "cpu" else 1,
        )

    def embed(self, pixels: Pixels) -> Embedded:
        """See Backend."""
        with own_threads(self._threads):
            patches = self._encoder.embed(torch.from_numpy(pixels))
        return Embedded(patches, patches.cpu().numpy())

    def new_state(self) -> "TorchState":
        """See Backend."""
        return TorchState(self._encoder.new_ring(), _step(self._encoder), self._new_pooling(), self._threads)

    def step_together(self, requests: Sequence[StepRequest]) -> list[Vector]:
        """See JointBackend."""
        return _compute(self._encoder.step, requests, self._threads)


class TorchState:
    """One stream's ring, stepped by the shared model."""

    def __init__(self, ring: RingCache, step: Step, pooling: Pooling, threads: int) -> None:
        self._ring, self._pooling, self._step, self._threads = ring, pooling, step, threads

    @property
    def fill(self) -> int:
        """See EncoderState."""
        return self._ring.fill

    @property
    def tokens(self) -> Tensor:
        """A copy of the newest tubelet's tokens, after the final norm, (S, D), fewer with merging; zeros at first."""
        return self._ring.canvas.clone()

    def step(self, patches: Tensor, token_idx: Indices | None = None) -> Vector:
        """See EncoderState."""
        (vector,) = _compute(self._step, [StepRequest(self, patches, token_idx)], self._threads)
        return vector

    def movement(self, token_idx: Indices) -> Movement:
        """See EncoderState."""
        with own_threads(self._threads):
            now, before = self._ring.canvas.float(), self._ring.canvas_before.float()  # (S, D)
            chosen_idx = torch.from_numpy(token_idx).to(now.device)
            mean = (now - before)[chosen_idx].mean(dim=0)  # (D,)
            spread = (now - now.mean(dim=0)).square().sum(dim=1).mean().sqrt()
            return Movement(mean.cpu().numpy(), float(spread))

    def complete(self, patches: Tensor) -> Vector:
        """See EncoderState."""
        self._ring.step_back()
        return self.step(patches)

    def hold(self) -> None:
        """See EncoderState."""
        with own_threads(self._threads):
            self._ring.hold()

    def peek(self, patches: Tensor) -> Vector:
        """See EncoderState."""
        with own_threads(self._threads), self._ring.untouched():
            return self.step(patches)

    def reset(self) -> None:
        """See EncoderState."""
        self._ring.reset()


def _compute(step: Step, requests: Sequence[StepRequest], threads: int) -> list[Vector]:
    """Step the streams and pool each one's output; if that raises, none has moved on."""
    rings = [request.state._ring for request in requests]
    newest = [ring.count for ring in rings]
    with own_threads(threads):
        outputs = step([request.patches for request in requests], rings, [request.token_idx for request in requests])
        try:
            by_stream = zip(requests, outputs, newest, strict=True)
            pooled = [request.state._pooling.pool(output, number) for request, output, number in by_stream]
            return [vector.float().cpu().numpy() for vector in pooled]
        except BaseException:
            for ring in rings:
                ring.step_back()
            raise


@contextmanager
def own_threads(count: int) -> Iterator[None]:
    """Compute the block on this many CPU threads; torch's setting, which is the whole process's, is as before after."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _step(encoder: StreamingEncoder) -> Step:
    """Choose the way one stream is stepped. CUDA graphs hold the stream's ring, so they are its own and go with it."""
    return GraphedEncoder(encoder).step if encoder.device.type == "cuda" else encoder.step


def _token_counts(encoder: StreamingEncoder) -> tuple[int, ...]:
    """Choose the numbers of tokens that a step can compute: any, but on a GPU few, of which each has its own graph.

    With areas on a GPU all of them: graphs would differ by the number in each area, too many to capture.
    """
    tokens, on_gpu = encoder.spec.tokens, encoder.device.type == "cuda"
    if encoder.window == 1 or encoder.recompute > 1 or encoder.merging.merge or (on_gpu and encoder.areas.are_on):
        return (tokens,)
    return token_buckets(tokens) if on_gpu else ()


def _pooling(name: str, probe: AttentiveProbe | None, encoder: StreamingEncoder) -> Callable[[], Pooling]:
    """Choose the maker of each stream's pooling."""
    if probe is None:
        return NewestPooling if name == "newest" else WindowPooling
    placed = probe.to(encoder.device, encoder.dtype)
    return lambda: ProbePooling(placed, encoder)


def _head(probe: AttentiveProbe | None) -> Head:
    if probe is None:
        return NoHead()
    return LinearHead(probe.classifier.weight.numpy().copy(), probe.classifier.bias.numpy().copy(), probe.labels)


def _find_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            "backend.device is 'cuda' but torch sees no GPU here: "
            "install a CUDA build of torch and its driver, or set 'cpu'"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
