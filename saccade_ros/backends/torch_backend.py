"""The encoder on PyTorch, on CPU or CUDA."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saccade_ros.backends.base import BackendError, BackendFacts, Embedded, unit
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.graph import GraphedEncoder
from saccade_ros.encoder.model import StepOutput
from saccade_ros.encoder.ring import RingCache
from saccade_ros.encoder.weights import load_encoder
from saccade_ros.frames import Pixels, Vector

Step = Callable[[Sequence[Tensor], Sequence[RingCache]], list[StepOutput]]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchBackend:
    """Loads the model that the config names and places it on the device at the precision asked for."""

    def __init__(self, encoder: EncoderConfig, backend: BackendConfig) -> None:
        precision = "fp32" if backend.precision == "auto" else backend.precision
        if precision not in DTYPES:
            raise BackendError(
                f"backend.precision is {precision!r}: torch computes {', '.join(DTYPES)}; other precisions come from "
                "an export (saccade export)"
            )
        if backend.threads:
            torch.set_num_threads(backend.threads)
        device = _find_device(backend.device)
        loaded = load_encoder(encoder.model, encoder.window, encoder.lookback, encoder.seed)
        self._encoder = loaded.encoder.place(device, DTYPES[precision])
        self._step: Step = GraphedEncoder(self._encoder).step if device.type == "cuda" else self._encoder.step
        self._pooling, self._normalize = encoder.pooling, encoder.normalize
        spec = self._encoder.spec
        weights = ("random-" if loaded.is_random else "") + loaded.sha256[:12]
        self.facts = BackendFacts(
            encoder_id=f"{spec.name}-{spec.input_size}:{weights}:{precision}",
            model=encoder.model,
            weights=loaded.source,
            weights_sha256=loaded.sha256,
            weights_random=loaded.is_random,
            backend="torch",
            device=device.type,
            precision=precision,
            threads=torch.get_num_threads(),
            input_size=spec.input_size,
            tubelet_size=spec.tubelet_size,
            window=encoder.window,
            lookback=encoder.lookback,
            dim=spec.width,
            patch_scale=float(self._encoder.patch_embed.weight.norm()),
            cache_bytes=self._encoder.cache_bytes,
        )

    def embed(self, pixels: Pixels) -> Embedded:
        """See Backend."""
        patches = self._encoder.embed(torch.from_numpy(pixels))
        return Embedded(patches, patches.cpu().numpy())

    def new_state(self) -> "TorchState":
        """See Backend."""
        return TorchState(self._encoder.new_ring(), self._step, self._pool)

    def _pool(self, output: StepOutput) -> Vector:
        pooled = (output.newest if self._pooling == "newest" else output.window).float().cpu().numpy()
        vector: Vector = unit(pooled) if self._normalize else pooled
        return vector


class TorchState:
    """One stream's ring, stepped by the shared model."""

    def __init__(self, ring: RingCache, step: Step, pool: Callable[[StepOutput], Vector]) -> None:
        self._ring, self._step, self._pool = ring, step, pool

    @property
    def fill(self) -> int:
        """See EncoderState."""
        return self._ring.fill

    def step(self, patches: Tensor) -> Vector:
        """See EncoderState."""
        return self._pool(self._step([patches], [self._ring])[0])

    def peek(self, patches: Tensor) -> Vector:
        """See EncoderState. A step that is not counted: the next one overwrites what it wrote before reading it,
        as after a step that failed. So no copy of the cache is needed, which for ViT-L is hundreds of megabytes."""
        count = self._ring.count
        try:
            return self.step(patches)
        finally:
            self._ring.count = count

    def reset(self) -> None:
        """See EncoderState."""
        self._ring.reset()


def _find_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            "backend.device is 'cuda' but torch sees no GPU here: "
            "install a CUDA build of torch and its driver, or set 'cpu'"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
