"""One model of the bench card: every runtime and precision that computes it here, timed in turn.

It runs in a process of its own, whose memory is free afterwards, and whose death costs no other model's rows. What is
not measured is named with its reason: the memory, the time or the form that it lacks.
"""

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from saccade_ros.backends import Backend, BackendError, load_backend
from saccade_ros.backends.manifest import is_export, read_manifest
from saccade_ros.config import BackendConfig, Config, EncoderConfig
from saccade_ros.encoder.spec import ModelSpec, read_spec
from saccade_ros.measure.machine import available_bytes
from saccade_ros.measure.timing import interleave, spread
from saccade_ros.runtimes import RUNTIMES
from saccade_ros.studies.card_export import export_artifact, export_seconds
from saccade_ros.studies.full_cache import FullCache
from saccade_ros.studies.gate_cost import GateWorkload

SHARES = (0.25, 0.1)
ROUNDS = (3, 20)  # least and most
TIMED_S = 8.0  # of the rows that take turns, where that is more than the least rounds
GATE_ROUNDS = 10
RUNTIME_BYTES = 500_000_000  # of a process with a runtime and no model
WEIGHT_COPIES = 2  # that loading holds at its peak, in fp32: 1.8 were seen of torch
EXPORT_COPIES = 6  # that quantizing holds: 5.5 were seen
SLOW = 5


class LeftOut(RuntimeError):  # noqa: N818  # no error: a row that the card has not
    """Row that is not measured. The message says why, and how to have it."""


@dataclass(frozen=True)
class Job:
    """Model to measure, and what that may cost.

    Attributes:
        model: as EncoderConfig has it; of an export its artifacts are measured.
        runtimes: names of those of RUNTIMES that work on this machine.
        seconds: time that it may take; one load and a step are tried before it is known what a row takes.
        device, threads: see BackendConfig.
        slow: runtimes and precisions that are not worth their time, by a smaller model.
    """

    model: str
    runtimes: tuple[str, ...]
    seconds: float
    window: int = 8
    device: str = "auto"
    threads: int = 0
    slow: tuple[tuple[str, str], ...] = ()


class Variant(NamedTuple):
    """One row."""

    runtime: str
    precision: str
    threads: int


class _Loaded(NamedTuple):
    """Row that waits for its turn; `step_s` is the time of a whole step."""

    backend: Backend
    stream: FullCache
    step_s: float

    @property
    def round_s(self) -> float:
        """Seconds of a round: the whole step, and one of each share."""
        return self.step_s * (1 + sum(self.stream.computed(share) / self.stream.tokens for share in SHARES))


def measure_model(job: Job) -> Iterator[dict[str, Any]]:
    """Measure one model; yield its part of the card whenever there is more of it.

    Raises:
        ConfigError, ManifestError: job.model is no model.
    """
    with TemporaryDirectory() as scratch:
        yield from _ModelStudy(job, Path(scratch)).run()


def slow_variants(measured: dict[str, Any]) -> list[tuple[str, str]]:
    """List the runtimes and precisions that took many times as long as the fastest of a model's rows."""
    times = [(row["runtime"], row["precision"], float(row["dense_ms"]["median"])) for row in measured["steps"]]
    fastest = min((ms for *_, ms in times), default=0.0)
    return [(runtime, precision) for runtime, precision, ms in times if ms > SLOW * fastest]


class _ModelStudy:
    """Rows of one model. Those that fit into memory together take turns, so that their ratios hold."""

    def __init__(self, job: Job, scratch: Path) -> None:
        self._job, self._scratch, self._deadline = job, scratch, time.monotonic() + job.seconds
        export = read_manifest(job.model) if is_export(job.model) else None
        self._settings: dict[str, Any] = export.settings if export else {"window": job.window}
        self._spec = export.spec if export else read_spec(job.model)
        self._offers = [(a.runtime, a.precision) for a in export.artifacts] if export else _all_precisions()
        self._loaded: dict[Variant, _Loaded] = {}
        self._about: dict[str, Any] = {}
        self._rows: list[dict[str, Any]] = []
        self._left_out: list[dict[str, Any]] = []

    def run(self) -> Iterator[dict[str, Any]]:
        """Measure every variant, then the fastest again on one thread."""
        for runtime, precision in self._offers:
            count = len(self._rows)
            self._add(Variant(runtime, precision, self._job.threads))
            if len(self._rows) > count:
                yield self._part()
        self._time_loaded()
        yield self._part()
        if any(row["threads"] > 1 for row in self._rows):
            best = min(self._rows, key=lambda row: float(row["dense_ms"]["median"]))
            self._add(Variant(best["runtime"], best["precision"], 1))
            self._time_loaded()
            yield self._part()

    def _part(self) -> dict[str, Any]:
        sizes = {"weights_million": round(weights_of(self._spec) / 1e6, 1), "input_size": self._spec.input_size}
        rows = {"steps": [*self._rows], "left_out": [*self._left_out]}
        return {"model": Path(self._job.model).name, **sizes, **self._settings, **self._about, **rows}

    def _add(self, variant: Variant) -> None:
        """Load one variant, to be timed with the others, or note why not."""
        try:
            self._check_form(variant)
            self._make_room()
            self._require(0.0, "")
            self._loaded[variant] = self._load(variant)
        except Exception as failed:  # noqa: BLE001  # those of the runtimes share no base class
            reason = (str(failed).strip() or type(failed).__name__).splitlines()[0]
            self._left_out.append({**variant._asdict(), "reason": reason})

    def _check_form(self, variant: Variant) -> None:
        if variant.runtime not in self._job.runtimes:
            raise LeftOut(f"{variant.runtime} does not run here: `saccade doctor` says why")
        if variant.precision == "fp16" and self._job.device != "cuda" and platform.machine() == "x86_64":
            raise LeftOut("fp16 is for GPUs and Arm: x86 processors have no arithmetic of it")
        if (variant.runtime, variant.precision) in self._job.slow:
            raise LeftOut(f"slow: over {SLOW} times the fastest row's time with a smaller model")

    def _make_room(self, copies: int = WEIGHT_COPIES) -> None:
        """Measure what is loaded, and let it go, where the next would not fit beside it; refuse what does not fit."""
        need = copies * 4 * weights_of(self._spec)
        if self._loaded and need > available_bytes():
            self._time_loaded()
        need += 0 if self._about else RUNTIME_BYTES
        if 0 < (there := available_bytes()) < need:
            raise LeftOut(f"memory: it takes about {need / 1e6:.0f} MB, and {there / 1e6:.0f} MB are free")

    def _require(self, seconds: float, what: str) -> None:
        """Refuse what takes more time than is neither spent nor promised to the rows that are loaded."""
        promised = sum(ROUNDS[0] * loaded.round_s for loaded in self._loaded.values())
        left = self._deadline - time.monotonic() - promised
        if left <= 0:
            raise LeftOut("time: the model's share is used up; raise --seconds")
        if seconds > left:
            raise LeftOut(f"time: {what} {seconds:.0f} s, and {left:.0f} s are left; raise --seconds")

    def _load(self, variant: Variant) -> _Loaded:
        """Load the model, fill a cache, and try a step."""
        backend = self._open(variant)
        stream = FullCache(backend)
        self._require_rounds(_Loaded(backend, stream, stream.first_s))
        started = time.perf_counter()
        stream.encode()
        return _Loaded(backend, stream, time.perf_counter() - started)

    def _require_rounds(self, loaded: _Loaded) -> None:
        need_s = loaded.step_s + ROUNDS[0] * loaded.round_s
        self._require(need_s, f"a step takes {loaded.step_s:.1f} s, {ROUNDS[0]} rounds")

    def _open(self, variant: Variant) -> Backend:
        """Load the model as it is, or an export of it where the runtime wants one."""
        encoder = EncoderConfig(self._job.model, **self._settings)
        backend = BackendConfig(device=self._job.device, **_settings(variant))
        try:
            return load_backend(encoder, backend)
        except (BackendError, ValueError):
            if not RUNTIMES[variant.runtime].export_format or is_export(self._job.model):
                raise
        return load_backend(replace(encoder, model=self._exported(variant)), backend)

    def _exported(self, variant: Variant) -> str:
        """Folder of the artifact that this variant needs, made if it is not there yet."""
        folder = self._scratch / f"{variant.runtime}-{variant.precision}"
        if not folder.exists():
            slowest_s = max((loaded.step_s for loaded in self._loaded.values()), default=0.0)
            need = export_seconds(weights_of(self._spec), slowest_s)
            self._make_room(EXPORT_COPIES)
            self._require(need, "its export (`saccade export` makes it, --models FOLDER takes it) needs")
            export_artifact(self._job.model, variant.runtime, variant.precision, self._job.window, folder)
        return str(folder)

    def _time_loaded(self) -> None:
        """Time the rows that are loaded, in turn, and let them go."""
        if not self._loaded:
            return
        first = next(iter(self._loaded.values())).backend
        self._about = self._about or {**_provenance(first), "gate_ms": _gate_ms(first)}
        calls: dict[tuple[Variant, float], Callable[[], object]] = {}
        for variant, loaded in self._loaded.items():
            calls[variant, 1.0] = loaded.stream.encode
            calls |= {(variant, share): loaded.stream.sparse(share) for share in SHARES}
        for call in calls.values():
            call()
        round_s = sum(loaded.round_s for loaded in self._loaded.values())
        times_ms = interleave(calls, max(ROUNDS[0], min(ROUNDS[1], int(TIMED_S / round_s))))
        for variant, loaded in self._loaded.items():
            self._rows.append(_row(loaded, {share: times_ms[variant, share] for share in (1.0, *SHARES)}))
        self._loaded.clear()


def weights_of(spec: ModelSpec) -> int:
    """Count the weights of an encoder's linear layers and patch embedding, which are nearly all that it has."""
    return spec.depth * spec.width * (4 * spec.width + 2 * spec.mlp_width) + spec.patch_values * spec.width


def _settings(variant: Variant) -> dict[str, Any]:
    return {"name": variant.runtime, "precision": variant.precision, "threads": variant.threads}


def _all_precisions() -> list[tuple[str, str]]:
    return [(name, precision) for name, runtime in RUNTIMES.items() for precision in runtime.precisions]


def _row(loaded: _Loaded, times_ms: dict[float, list[float]]) -> dict[str, Any]:
    info, stream = loaded.backend.info, loaded.stream
    sparse = [
        {"share": share, "computed": stream.computed(share) / stream.tokens, **spread(times_ms[share])._asdict()}
        for share in SHARES
    ]
    about = {name: getattr(info, name) for name in ("backend", "precision", "device", "threads")}
    return {"runtime": about.pop("backend"), **about, "dense_ms": spread(times_ms[1.0])._asdict(), "sparse_ms": sparse}


def _provenance(backend: Backend) -> dict[str, Any]:
    info = backend.info
    return {"weights": info.weights, "weights_sha256": info.weights_sha256, "weights_random": info.weights_random}


def _gate_ms(backend: Backend) -> dict[str, float]:
    """Times of the patch embedding, and of the gate for a tubelet that is skipped, and for one that is encoded."""
    load = GateWorkload(Config(), backend)
    load.open()
    times_ms = interleave({"embed": load.embed, "skip": load.skip, "open": load.open}, GATE_ROUNDS)
    return {name: round(spread(times).median, 3) for name, times in times_ms.items()}
