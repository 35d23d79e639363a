"""Steps of other runtimes beside torch's: rows of `saccade bench step`, measured in turn with its own."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.backends import BackendError, load_backend
from saccade_ros.backends.manifest import read_manifest
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.frames import Pixels
from saccade_ros.measure.metrics import centred_cosine, summarize
from saccade_ros.measure.timing import spread
from saccade_ros.runtimes import RUNTIMES
from saccade_ros.studies.full_cache import FullCache


class Served(NamedTuple):
    """Step of one runtime. `model` is a checkpoint or size, or the folder of an export."""

    runtime: str
    precision: str
    model: str


def served_steps(
    model: str, runtimes: Iterable[str], precisions: Sequence[str], exports: Iterable[str]
) -> list[Served]:
    """List what runtimes compute of a model in some precisions, and all that is in exports.

    Raises:
        ManifestError: one of the exports is none.
    """
    found = [
        Served(name, precision, model)
        for name in runtimes
        for precision in RUNTIMES[name].checkpoint_precisions
        if precision in precisions
    ]
    exported = ((folder, artifact) for folder in exports for artifact in read_manifest(folder).artifacts)
    return found + [Served(artifact.runtime, artifact.precision, folder) for folder, artifact in exported]


def load_steps(
    served: Iterable[Served], window: int, threads: int
) -> tuple[dict[Served, "RuntimeStep"], list[dict[str, str]]]:
    """Load those that can run here; a row for each other, with its reason.

    Raises:
        ManifestError, WeightsError, ConfigError, ValueError: the model or an export cannot be used; says why.
    """
    loaded, failed = {}, []
    for step in served:
        try:
            loaded[step] = RuntimeStep(step, window, threads)
        except BackendError as reason:
            failed.append({"runtime": step.runtime, "precision": step.precision, "failure": str(reason)})
    return loaded, failed


class RuntimeStep:
    """One of them, loaded.

    Raises:
        BackendError: it cannot run here; says why.
        ManifestError: the export is of another window.
    """

    def __init__(self, served: Served, window: int, threads: int) -> None:
        encoder = EncoderConfig(model=served.model, window=window)
        settings = BackendConfig(name=served.runtime, precision=served.precision, device="cpu", threads=threads)
        self._served, self._backend = served, load_backend(encoder, settings)

    def embeddings(self, clip: Iterable[Pixels]) -> npt.NDArray[np.float32]:
        """Embed every tubelet of a clip, (2, 3, H, W) each: (T, D)."""
        state = self._backend.new_state()
        return np.stack([state.step(self._backend.embed(pixels).patches) for pixels in clip])

    def prepare(self) -> Callable[[], object]:
        """Make a step of a full ring, ready to be timed."""
        return FullCache(self._backend).encode

    def row(
        self,
        times_ms: list[float],
        reencode_ms: dict[str, float],
        ours: npt.NDArray[np.float32],
        reference: npt.NDArray[np.float32],
    ) -> dict[str, Any]:
        """Row of the record.

        Args:
            reencode_ms: medians of transformers' re-encode, by precision.
            ours, reference: embeddings of this step and of torch's in fp32, (T, D) each.
        """
        timed, info = spread(times_ms), self._backend.info
        return {
            "runtime": self._served.runtime,
            "precision": self._served.precision,
            "threads": info.threads,
            "step_ms": timed._asdict(),
            "speedup": {precision: ms / timed.median for precision, ms in reencode_ms.items()},
            "cache_mb": info.cache_bytes / 1e6,
            "centred_cosine": {**summarize(centred_cosine(ours, reference))._asdict(), "tubelets": len(ours)},
            "largest_error": float(np.abs(ours - reference).max() / np.abs(reference).max()),
        }
