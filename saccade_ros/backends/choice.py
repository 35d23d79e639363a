"""Choice of runtime and precision where the settings say auto: by what is installed, the processor, and the model.

Nothing is timed here. An export was timed where it was made; a checkpoint runs in fp32, as nothing below it was
measured on its weights. docs/export.md has the rule in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from saccade_ros.backends.cuda_runtime import can_run
from saccade_ros.backends.manifest import Artifact, Manifest, ManifestError, is_export, read_manifest
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.encoder.spec import SIZES
from saccade_ros.measure.machine import instruction_sets, processor
from saccade_ros.runtimes import RUNTIMES

DOT_PRODUCTS = {"VNNI int8", "AVX VNNI int8", "AMX int8", "Arm dot product int8", "Arm int8 matrices"}
BF16 = {"bf16", "AMX bf16"}  # those of x86; the runtimes here do not use Arm's

TILES = {"AMX bf16", "AMX int8"}  # matrix units, which our own kernels compute with

# Runtimes by speed in fp32, as measured (docs/export.md); and what each needs for a checkpoint.
_ON_TILES = ("torch", "openvino", "onnxruntime")
_ELSEWHERE = ("onnxruntime", "openvino", "torch")
_PACKAGES = {"torch": ("torch",), "onnxruntime": ("onnxruntime", "onnx"), "openvino": ("openvino", "onnx")}

# Precisions by speed, for an export that was timed on another processor: with integer dot products, and without.
_BY_SPEED = ("int8-static", "int8", "bf16", "fp16", "fp32", "int4")
_BY_SPEED_WITHOUT = ("bf16", "fp16", "fp32", "int8", "int8-static", "int4")


@dataclass(frozen=True)
class Choice:
    """Runtime and precision, and in a line why: for `~/info`, the log and `saccade doctor`."""

    runtime: str
    precision: str
    why: str


def choose(encoder: EncoderConfig, backend: BackendConfig) -> Choice:
    """Resolve "auto" in backend.name and backend.precision.

    Raises:
        ManifestError: an export that is broken, or holds nothing that can run here as asked.
    """
    if is_export(encoder.model):
        return _of_export(read_manifest(encoder.model), backend)
    precision = "fp32" if backend.precision == "auto" else backend.precision
    if backend.name != "auto":
        return Choice(backend.name, precision, f"{backend.name} {precision}: as asked for")
    name, rule = _runtime_of_checkpoint(encoder, backend, precision)
    return Choice(name, precision, f"{name} {precision}: {rule}")


def _runtime_of_checkpoint(encoder: EncoderConfig, backend: BackendConfig, precision: str) -> tuple[str, str]:
    """The runtime for a checkpoint, and by which rule."""
    if _is_installed("torch") and _is_torchs(encoder):
        return "torch", "it alone loads this model, or computes this pooling"
    if _is_installed("torch") and _has_nvidia() and backend.device in ("auto", "cuda"):
        return "torch", "it uses the GPU"
    has_tiles = TILES & set(instruction_sets())
    order = _ON_TILES if has_tiles else _ELSEWHERE
    able = [
        name
        for name in order
        if precision in RUNTIMES[name].checkpoint_precisions
        and backend.device in ("auto", *RUNTIMES[name].devices)
        and all(map(_is_installed, _PACKAGES[name]))
    ]
    if not able:  # the first there is says what it lacks
        return next(
            (name for name in order if _is_installed(RUNTIMES[name].package)), "torch"
        ), "nothing here is able to"
    tiles = "with matrix tiles" if has_tiles else "without matrix tiles"
    return able[0], f"the fastest in fp32 on a processor {tiles}, of those installed"


def _is_torchs(encoder: EncoderConfig) -> bool:
    """Tell whether only torch loads the model: random numbers, its own file format, an adapter; or only it pools so."""
    released = encoder.model.lower().endswith((".pt", ".pth", ".tar"))
    return encoder.model in SIZES or released or bool(encoder.adapter) or encoder.pooling == "probe"


def _has_nvidia() -> bool:
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu"))


def _is_installed(package: str) -> bool:
    try:
        return util.find_spec(package) is not None
    except (ImportError, ValueError):  # one that is forbidden has no spec
        return False


def _of_export(manifest: Manifest, backend: BackendConfig) -> Choice:
    asked = [a for a in manifest.artifacts if backend.name in ("auto", a.runtime)]
    asked = [a for a in asked if backend.precision in ("auto", a.precision)]
    if not asked:  # says what there is
        manifest.pick(manifest.artifacts[0].runtime if backend.name == "auto" else backend.name, backend.precision)
    if "auto" not in (backend.name, backend.precision):
        return Choice(backend.name, backend.precision, f"{backend.name} {backend.precision}: as asked for")
    obstacles = {f"{a.runtime} {a.precision}": _obstacle(a, backend) for a in asked}
    usable = [a for a in asked if not obstacles[f"{a.runtime} {a.precision}"]]
    if not usable:
        reasons = "; ".join(f"{name}: {why}" for name, why in obstacles.items())
        raise ManifestError(
            f"{manifest.folder} holds nothing that can run here as asked ({reasons}): lower backend.fidelity, name "
            "backend.precision, install what is missing, or export again"
        )
    best, rule = _fastest(usable, manifest)
    return Choice(best.runtime, best.precision, f"{best.runtime} {best.precision}: {rule}; {_say_fidelity(best)}")


def _obstacle(artifact: Artifact, backend: BackendConfig) -> str:
    """Reason why an artifact cannot be chosen; empty if it can."""
    runtime, fidelity = RUNTIMES[artifact.runtime], _fidelity(artifact)
    if artifact.runtime == "tensorrt" and not can_run():
        return "needs an NVIDIA GPU"
    if artifact.runtime != "tensorrt" and not _is_installed(runtime.package):
        return f"{runtime.package} is not installed"
    if backend.device not in ("auto", *runtime.devices):
        return f"does not run on backend.device {backend.device!r}"
    if artifact.precision == "bf16" and "cpu" in runtime.devices and not BF16 & set(instruction_sets()):
        return "this processor has no bf16"
    if backend.precision == "auto" and fidelity is not None and fidelity < backend.fidelity:
        return f"its centred cosine of {fidelity:.4f} is below backend.fidelity {backend.fidelity}"
    return ""


def _fastest(usable: Sequence[Artifact], manifest: Manifest) -> tuple[Artifact, str]:
    """The artifact that should be fastest here, of those measured if there are any; and by which rule."""
    measured = [a for a in usable if _fidelity(a) is not None] or usable
    if manifest.machine.startswith(f"{processor()}, "):
        return measured[0], "the fastest in the export's own timing, on a processor of this model"
    has = DOT_PRODUCTS & set(instruction_sets())
    order = _BY_SPEED if has else _BY_SPEED_WITHOUT
    best = min(measured, key=lambda a: (a.runtime != "tensorrt", order.index(a.precision)))
    products = f"has integer dot products ({', '.join(sorted(has))})" if has else "has no integer dot products"
    return best, f"this processor {products}, and the export was timed on another"


def _fidelity(artifact: Artifact) -> float | None:
    """Centred cosine on the held-out clip; None if the artifact was not measured."""
    held_out = artifact.parity.get("held_out")
    return None if held_out is None else float(held_out["centred_cosine_mean"])


def _say_fidelity(artifact: Artifact) -> str:
    fidelity = _fidelity(artifact)
    return "its fidelity was not measured" if fidelity is None else f"centred cosine {fidelity:.4f} to torch fp32"
