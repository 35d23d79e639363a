"""Manifest of an export (manifest.json): the encoder's sizes, its files' hashes, and its measured parity and speed.

A folder is an export if it holds one. It is written last, after every file it names, so a folder without one is no
export, whatever else is in it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from saccade_ros.backends.window import Contract, StepShape
from saccade_ros.config import EncoderConfig
from saccade_ros.default_model import locate
from saccade_ros.encoder.spec import ModelSpec, RopeLayout
from saccade_ros.runtimes import RUNTIMES
from saccade_ros.storage import home_path, sha256_of, write_json

FILE = "manifest.json"
FORMAT, VERSION = "saccade_ros export", 4
MAX_BYTES = 4_000_000


class ManifestError(ValueError):
    """An export that is broken, or does not fit what was asked. The message says which and the remedy."""


@dataclass(frozen=True)
class ModelInfo:
    """Weights of the encoder that was exported.

    Attributes:
        source: origin of the weights, for people.
        sha256, patch_scale: see EncoderInfo.
    """

    source: str
    sha256: str
    is_random: bool
    patch_scale: float


@dataclass(frozen=True)
class Artifact:
    """Step in one precision for one runtime.

    Attributes:
        contract: writer of the cache, "host" or "scatter" (export/graph.py); an engine's is its graph's.
        files: role ("embed", "step", "step_data", "engine", ..) to path in the folder.
        parity: centred cosine and error against torch fp32, by clip; empty if it could not run where it was made.
        latency_ms: median step before (torch fp32) and after, same run; empty likewise.
        warnings: why it would have been refused, if it was kept by force.
        built_for: what a TensorRT engine is tied to.
    """

    runtime: str
    precision: str
    contract: Contract
    files: dict[str, str]
    parity: dict[str, Any] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    built_for: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Content of a manifest.json.

    Attributes:
        folder: the one it was read from; its files lie below.
        spec: sizes of the encoder.
        shape: window, recompute, batch and areas of the step, as StepShape names them.
        artifacts: preferred first.
        refused: what was made and not kept, with the figures.
        files: path to SHA-256 and size of every file.
    """

    folder: Path
    package_version: str
    created: str
    machine: str
    model: ModelInfo
    spec: ModelSpec
    shape: dict[str, int]
    artifacts: tuple[Artifact, ...]
    refused: tuple[str, ...]
    files: dict[str, dict[str, Any]]
    versions: dict[str, str]

    @property
    def step_shape(self) -> StepShape:
        """Sizes of the step."""
        return StepShape(self.spec, **self.shape)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of EncoderConfig that the step was exported for, by name."""
        shape = self.shape
        area_grid = f"{shape['area_rows']}x{shape['area_columns']}"
        fixed = {name: shape[name] for name in ("window", "recompute", "merge", "area_layers")}
        return {**fixed, "area_grid": area_grid}

    def pick(self, runtime: str, precision: str) -> Artifact:
        """The artifact for a runtime; of several, the first, or the one of this precision.

        Raises:
            ManifestError: there is none.
        """
        there = [a for a in self.artifacts if a.runtime == runtime]
        for artifact in there:
            if precision in ("auto", artifact.precision):
                return artifact
        has = ", ".join(f"{a.runtime} {a.precision}" for a in self.artifacts)
        raise ManifestError(
            f"{self.folder} holds no {runtime} artifact of precision {precision}; it has {has}: "
            "set backend.name and backend.precision to one of these, or export again"
        )

    def check_fit(self, encoder: EncoderConfig) -> None:
        """Raise ManifestError unless the export can do what is asked: step, pooling, one stream a call."""
        for name, has in self.settings.items():
            if (wanted := getattr(encoder, name)) != has:
                raise ManifestError(
                    f"encoder.{name} is {wanted}, but {self.folder} was exported for {has}: set encoder.{name} to "
                    f"{has}, or export again with --{name.replace('_', '-')} {wanted}"
                )
        if encoder.input_size not in (0, self.spec.input_size):
            raise ManifestError(
                f"encoder.input_size is {encoder.input_size}, but {self.folder} takes {self.spec.input_size} px: "
                "set it to 0"
            )
        if encoder.pooling == "probe":
            raise ManifestError(
                f"encoder.pooling is 'probe', but {self.folder} holds no probe: set 'newest' or 'window'"
            )
        if encoder.adapter:
            raise ManifestError(
                f"encoder.adapter is {encoder.adapter!r}, but {self.folder} is exported, its weights fixed: leave it "
                "empty, or merge the adapter in the export (saccade export --adapter)"
            )
        if self.shape["batch"] != 1:
            raise ManifestError(
                f"{self.folder} was exported for batches of {self.shape['batch']}: the node steps one stream at a "
                "time; export again with --batch 1"
            )

    def check_files(self, artifact: Artifact) -> dict[str, Path]:
        """Paths of an artifact's files by role, each hashed. Raises ManifestError for one that is not as exported."""
        return {role: self._check_file(name) for role, name in artifact.files.items()}

    def hashes_of(self, artifact: Artifact, role: str) -> list[str]:
        """SHA-256 of an artifact's files whose role begins with `role`."""
        return [self.files[name]["sha256"] for part, name in artifact.files.items() if part.startswith(role)]

    def _check_file(self, name: str) -> Path:
        path, expected = self.folder / name, self.files[name]
        try:
            size = path.stat().st_size
            digest = sha256_of(path) if size == expected["bytes"] else ""
        except OSError as missing:
            raise ManifestError(f"{path}: cannot be read ({missing.strerror}); copy the export again") from missing
        if digest != expected["sha256"]:
            what = "its SHA-256 is another" if digest else f"{size} bytes instead of {expected['bytes']}"
            raise ManifestError(f"{path} is not the file that was exported ({what}); copy or make the export again")
        return path

    def save(self) -> None:
        """Write manifest.json into the folder."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        del document["folder"]
        write_json(self.folder / FILE, seal(document))


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """Add the checksum of all that a manifest says, or put the right one in its place."""
    said = {name: value for name, value in document.items() if name != "checksum"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return {**said, "checksum": hashlib.sha256(text.encode()).hexdigest()}


def is_export(model: str) -> bool:
    """True if `encoder.model` names an exported folder, or its manifest."""
    return _manifest_file(model).is_file()


def read_manifest(model: str) -> Manifest:
    """Read and check a manifest; files are not touched.

    Args:
        model: the export's folder, or the manifest in it.

    Raises:
        ManifestError: it cannot be read, is of another version, or contradicts itself.
    """
    file = _manifest_file(model)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{file}: larger than {MAX_BYTES} bytes, no manifest of ours")
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(
            f"{file} does not exist: give encoder.model the folder that `saccade export` wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as broken:
        if isinstance(broken, ManifestError):
            raise
        raise ManifestError(f"{file}: cannot be read ({broken}); copy or make the export again") from broken
    _check_version(file, document)
    try:
        return _parse(file.parent, document)
    except (AttributeError, KeyError, TypeError, ValueError) as wrong:
        raise ManifestError(
            f"{file}: {type(wrong).__name__} {wrong}; it was changed or is not ours: make the export again"
        ) from wrong


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder but the manifest, by relative path."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != FILE)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths
    }


def _manifest_file(model: str) -> Path:
    path = home_path(locate(model))
    return path if path.name == FILE else path / FILE


def _check_version(file: Path, document: object) -> None:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ManifestError(f"{file}: no manifest of a {FORMAT}; give the folder that `saccade export` wrote")
    if document.get("version") != VERSION:
        raise ManifestError(
            f"{file}: manifest version {document.get('version')!r}, this package reads {VERSION}: "
            "export again with this package, or install the one that wrote it"
        )
    if document.get("checksum") != seal(document)["checksum"]:
        raise ManifestError(f"{file}: its checksum is another: it was changed after the export; copy or make it again")


def _parse(folder: Path, document: Mapping[str, Any]) -> Manifest:
    files = {str(name): _file_entry(name, entry) for name, entry in document["files"].items()}
    artifacts = tuple(_artifact(entry, files) for entry in document["artifacts"])
    if not artifacts:
        raise ValueError("no artifacts")
    spec = _spec(document["spec"])
    return Manifest(
        folder=folder,
        package_version=_typed(document["package_version"], str),
        created=_typed(document["created"], str),
        machine=_typed(document["machine"], str),
        model=_dataclass(ModelInfo, document["model"]),
        spec=spec,
        shape=_shape(document["shape"], spec),
        artifacts=artifacts,
        refused=tuple(_typed(reason, str) for reason in document["refused"]),
        files=files,
        versions=_typed(document["versions"], dict),
    )


def _file_entry(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"file {name!r} is outside the export")
    return {"bytes": _typed(entry["bytes"], int), "sha256": _typed(entry["sha256"], str)}


def _artifact(entry: Mapping[str, Any], files: Mapping[str, Any]) -> Artifact:
    artifact: Artifact = _dataclass(Artifact, entry)
    exported = [name for name, runtime in RUNTIMES.items() if runtime.export_format]
    if artifact.runtime not in exported:
        raise ValueError(f"runtime {artifact.runtime!r} is none of {', '.join(exported)}")
    if artifact.contract not in get_args(Contract):
        raise ValueError(f"contract {artifact.contract!r} is neither host nor scatter")
    unknown = set(artifact.files.values()) - set(files)
    if unknown:
        raise ValueError(f"artifact file {min(unknown)!r} has no hash")
    return artifact


def _spec(entry: Mapping[str, Any]) -> ModelSpec:
    for name, setting in ModelSpec.__dataclass_fields__.items():
        if setting.type is int:
            _size(name, entry[name], least=0 if name == "rope_grid" else 1)
    if entry["rope"] not in get_args(RopeLayout):
        raise ValueError(f"rope is {entry['rope']!r}")
    if not 0 < _typed(entry["norm_eps"], float) < 1:
        raise ValueError(f"norm_eps is {entry['norm_eps']}")
    spec: ModelSpec = _dataclass(ModelSpec, entry)
    return spec


def _shape(entry: Mapping[str, Any], spec: ModelSpec) -> dict[str, int]:
    least = {"window": 1, "recompute": 1, "batch": 1, "merge": 0, "area_rows": 1, "area_columns": 1, "area_layers": 0}
    sizes = {name: _size(name, entry[name], least[name]) for name in least}
    StepShape(spec, **sizes)  # refuses what does not suit the encoder
    return sizes


def _size(name: str, value: Any, least: int = 1) -> int:
    size: int = _typed(value, int)
    if not least <= size <= 65536:
        raise ValueError(f"{name} is {size}")
    return size


def _dataclass(kind: Any, entry: Mapping[str, Any]) -> Any:
    """Make a dataclass of plain values, each of its annotated type; a Literal's are checked by the caller."""
    origin = {"str": str, "int": int, "float": float, "bool": bool}
    values = {}
    for name, setting in kind.__dataclass_fields__.items():
        wanted = origin.get(getattr(setting.type, "__name__", ""))
        if wanted is None:
            wanted = getattr(setting.type, "__origin__", object)
        values[name] = _typed(entry[name], wanted if isinstance(wanted, type) else object)
    return kind(**values)


def _typed(value: Any, wanted: type) -> Any:
    if wanted is float and type(value) is int:
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise TypeError(f"{value!r:.60} is no {wanted.__name__}")
    return value
