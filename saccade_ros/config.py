"""Every knob of saccade_ros: one frozen dataclass per stage, units in the names, validated on construction.

The same dataclasses are the Python API, the ROS parameters (`gate.tau`), the rows of `config/encoder.yaml`
and the table in the README, so a default is written down once.
"""

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar


class ConfigError(ValueError):
    """A setting that cannot work. The message names the value and the remedy."""


@dataclass(frozen=True)
class Knob:
    """What a setting means and which values it takes; stored in the dataclass field's metadata."""

    description: str
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False  # may change while the node is active

    def check(self, name: str, value: object) -> None:
        """Raise ConfigError unless `value` is one this setting takes."""
        if self.choices and value not in self.choices:
            raise ConfigError(f"{name} is {value!r}: choose one of {', '.join(self.choices)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} is {value}: give a finite number")
        if self.at_least is not None and isinstance(value, int | float) and value < self.at_least:
            raise ConfigError(f"{name} is {value}: give at least {self.at_least}")
        if self.at_most is not None and isinstance(value, int | float) and value > self.at_most:
            raise ConfigError(f"{name} is {value}: give at most {self.at_most}")


def knob(default: Any, description: str, **limits: Any) -> Any:
    """Declare a setting: its default, what it means, and its limits (see Knob)."""
    return field(default=default, metadata={"knob": Knob(description, **limits)})


def knob_of(setting: "Field[Any]") -> Knob:
    """The Knob that `knob()` stored on a dataclass field."""
    found: Knob = setting.metadata["knob"]
    return found


class _Section:
    """Checks each setting's type and limits; a whole number given for a float becomes one."""

    prefix: ClassVar[str]

    def __post_init__(self) -> None:
        for setting in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            name, value, wanted = f"{self.prefix}.{setting.name}", getattr(self, setting.name), setting.default
            if isinstance(wanted, float) and type(value) is int:
                value = float(value)
                object.__setattr__(self, setting.name, value)
            if isinstance(wanted, tuple) and isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, setting.name, value)
            if type(value) is not type(wanted):
                raise ConfigError(
                    f"{name} is {value!r}, a {type(value).__name__}: give a {type(wanted).__name__}, like {wanted!r}"
                )
            knob_of(setting).check(name, value)


@dataclass(frozen=True)
class StreamConfig(_Section):
    """Which frames become tubelets, and when a stream starts afresh."""

    prefix: ClassVar[str] = "stream"

    fps: float = knob(
        4.0,
        "Frames per second taken from each camera, by header stamp; two frames make a tubelet. 4 is the rate "
        "V-JEPA 2 was trained at (facebookresearch/vjepa2, configs/train/*/*.yaml: fps: 4). 0 takes every frame.",
        at_least=0.0,
        at_most=1000.0,
    )
    max_gap_s: float = knob(
        2.0,
        "Seconds without a frame after which the stream starts afresh: the cache is emptied.",
        at_least=0.01,
        at_most=3600.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fps and self.max_gap_s <= 1.0 / self.fps:
            raise ConfigError(
                f"stream.max_gap_s is {self.max_gap_s} s, no longer than the {1.0 / self.fps:.3g} s between two frames "
                f"at stream.fps {self.fps}: every frame would be a gap; raise one of the two"
            )


@dataclass(frozen=True)
class VisionConfig(_Section):
    """From a camera's picture to the encoder's square input."""

    prefix: ClassVar[str] = "vision"

    fit: str = knob(
        "crop",
        "How a picture becomes square: 'crop' is the checkpoint's own evaluation transform (shorter side to "
        "256/224 of the input, centre crop), 'stretch' keeps the whole field of view and distorts it.",
        choices=("crop", "stretch"),
    )
    max_megapixels: float = knob(
        64.0, "Largest picture accepted, in millions of pixels; a larger one is dropped and counted.", at_least=0.001
    )


@dataclass(frozen=True)
class GateConfig(_Section):
    """When is a tubelet new enough to be encoded?"""

    prefix: ClassVar[str] = "gate"

    enabled: bool = knob(True, "False encodes every tubelet and measures no novelty.")
    tau: float = knob(
        0.2,
        "Novelty at or above which a tubelet is encoded: relative change since the last encoded tubelet, light and "
        "noise taken out, 0 = identical. 0 encodes everything. `saccade calibrate` finds the value for a fidelity.",
        at_least=0.0,
        at_most=10.0,
        live=True,
    )
    top_fraction: float = knob(
        0.03,
        "Share of the picture's patches, the most changed ones, whose mean change is half of the novelty; the other "
        "half is the change that all patches have in common.",
        at_least=0.0,
        at_most=1.0,
    )
    drift_limit: float = knob(
        2.0,
        "A tubelet is encoded, too, when novelty that did not reach tau has added up to this many tau since the last "
        "encoded one: 2.0 is four tubelets at 0.6 tau. 0 never.",
        at_least=0.0,
        at_most=1e6,
    )
    hysteresis: float = knob(
        0.5,
        "An event on ~/event begins when novelty reaches gate.tau and is over when it has stayed below this share of "
        "it for a second.",
        at_least=0.0,
        at_most=1.0,
    )
    max_skip_s: float = knob(
        10.0,
        "Seconds of header time after which a tubelet is encoded even if nothing changed. 0 never forces one.",
        at_least=0.0,
        at_most=86400.0,
        live=True,
    )
    mode: str = knob(
        "fixed",
        "Where the threshold comes from: 'fixed' is gate.tau, 'budget' moves it so that the encodes hold the budget.",
        choices=("fixed", "budget"),
    )
    budget_fraction: float = knob(
        0.25, "Budget mode: share of the tubelets to encode.", at_least=0.001, at_most=1.0, live=True
    )
    budget_hz: float = knob(
        0.0,
        "Budget mode: encodes per second of header time and camera, in place of the share if above 0.",
        at_least=0.0,
        at_most=1000.0,
        live=True,
    )
    tau_min: float = knob(
        0.03,
        "Budget mode never lowers tau below this, however calm it is: there is only noise to encode.",
        at_least=1e-6,
        at_most=10.0,
    )
    tau_max: float = knob(
        10.0, "Budget mode never raises tau above this, whatever the budget.", at_least=1e-6, at_most=1000.0
    )
    shadow_rate: float = knob(
        0.05,
        "Share of the skipped tubelets to encode after all, in idle time and without a trace, to measure how wrong "
        "reusing the embedding was. 0 never.",
        at_least=0.0,
        at_most=1.0,
        live=True,
    )
    calibrated_for: str = knob(
        "",
        "encoder_id that `saccade calibrate` chose gate.tau for; any other encoder is refused. Empty: not calibrated.",
    )
    centre: str = knob(
        "",
        "What fidelity is centred on: the mean embedding of the calibration, as base64 of float16 values, written by "
        "`saccade calibrate`. Empty: the running mean of the stream.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau_min > self.tau_max:
            raise ConfigError(
                f"gate.tau_min is {self.tau_min}, more than gate.tau_max {self.tau_max}: lower one or raise the other"
            )


@dataclass(frozen=True)
class EncoderConfig(_Section):
    """Which model, and how much past it sees."""

    prefix: ClassVar[str] = "encoder"

    model: str = knob(
        "facebook/vjepa2-vitl-fpc64-256",
        "Folder or hub id of a transformers V-JEPA 2 checkpoint, a .pt file as released with V-JEPA 2.1, a folder that "
        "`saccade export` wrote, or a size with RANDOM weights for trying things out: tiny, vits, vitl, vith, vitg.",
    )
    adapter: str = knob(
        "",
        "File of a causal adapter that `saccade train causal` wrote for these weights; merged into them at load. "
        "Empty: none.",
    )
    seed: int = knob(0, "Seed of the random weights, when the model is a size.", at_least=0, at_most=2**31 - 1)
    window: int = knob(8, "Tubelets in the cache (W): what each step can look back on.", at_least=1, at_most=1024)
    recompute: int = knob(
        1,
        "Newest tubelets recomputed in each step (r): 1 is the causal step, r = window is exactly the "
        "bidirectional clip encoder, at window times the cost.",
        at_least=1,
        at_most=1024,
    )
    pooling: str = knob(
        "newest",
        "What the embedding is: the mean of the newest tubelet's tokens, that of the whole window's, or what the "
        "attentive probe of a video-classification checkpoint makes of the window, which brings label and score.",
        choices=("newest", "window", "probe"),
    )
    normalize: bool = knob(False, "True scales each embedding to length 1.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ConfigError("encoder.model is empty: give a checkpoint folder, a hub id or a size such as tiny")
        if self.recompute > self.window:
            raise ConfigError(
                f"encoder.recompute is {self.recompute}, more than encoder.window {self.window}: "
                "only tubelets in the window can be recomputed; lower recompute or raise window"
            )
        if self.normalize and self.pooling == "probe":
            raise ConfigError(
                "encoder.normalize is true with encoder.pooling probe, whose classifier needs the length: set it false"
            )


@dataclass(frozen=True)
class BackendConfig(_Section):
    """What runs the encoder."""

    prefix: ClassVar[str] = "backend"

    name: str = knob(
        "auto",
        "The runtime that computes the encoder. auto: what an exported folder prefers, else torch.",
        choices=("auto", "torch", "onnxruntime", "tensorrt"),
    )
    device: str = knob(
        "auto", "Where: auto takes the GPU if the runtime sees one, else the CPU.", choices=("auto", "cpu", "cuda")
    )
    precision: str = knob(
        "auto",
        "Arithmetic of the encoder: fp32 is the reference, bf16 is faster where the CPU or GPU has it, int8 (linear "
        "layers; the rest in bf16) faster still and less faithful; fp16 is for GPUs, int8-static and int4 come from "
        "an export. auto: what an exported folder prefers, else fp32.",
        choices=("auto", "fp32", "bf16", "fp16", "int8", "int8-static", "int4"),
    )
    threads: int = knob(0, "CPU threads for the encoder. 0 leaves the runtime's default.", at_least=0, at_most=1024)
    allow_cpu_fallback: bool = knob(
        False, "True lets ONNX Runtime use the CPU where the GPU asked for cannot be used; else that is an error."
    )


@dataclass(frozen=True)
class NodeConfig(_Section):
    """The encoder node's place in the ROS graph."""

    prefix: ClassVar[str] = "node"

    topics: tuple[str, ...] = knob(
        ("/camera/image_raw",),
        "Image topics, one stream each, one model for all. A name ending in /compressed is a "
        "sensor_msgs/CompressedImage, any other a sensor_msgs/Image.",
    )
    output_topic: str = knob("/saccade/embedding", "Topic of saccade_ros/Embedding.")
    autostart: bool = knob(
        True, "Configure and activate at start. False waits for a lifecycle manager (the launch file does this)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.topics or any(not isinstance(topic, str) or not topic.strip() for topic in self.topics):
            raise ConfigError(f"node.topics is {list(self.topics)}: name at least one image topic, none of them empty")
        if len(set(self.topics)) < len(self.topics):
            raise ConfigError(f"node.topics is {list(self.topics)}: name each topic once")
        if not self.output_topic.strip():
            raise ConfigError("node.output_topic is empty: name the topic of the embeddings")


@dataclass(frozen=True)
class Config:
    """All settings of the engine and its node, by stage."""

    stream: StreamConfig = StreamConfig()
    vision: VisionConfig = VisionConfig()
    gate: GateConfig = GateConfig()
    encoder: EncoderConfig = EncoderConfig()
    backend: BackendConfig = BackendConfig()
    node: NodeConfig = NodeConfig()


def load_config(params_file: str | Path | None = None, overrides: Mapping[str, str] | None = None) -> Config:
    """A Config from a ROS parameter file, such as config/encoder.yaml, and `section.name` overrides as YAML text.

    Node names in the file are not matched: every `ros__parameters` block applies, later ones winning.

    Raises:
        ConfigError: the file cannot be read, or names or holds something that is no setting.
    """
    import yaml

    values: dict[str, Any] = {}
    if params_file is not None:
        try:
            document = yaml.safe_load(Path(params_file).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as broken:
            raise ConfigError(f"params file {params_file}: cannot be read ({broken})") from broken
        for block in _parameter_blocks(document, params_file):
            values.update(_flatten(block))
    for name, text in (overrides or {}).items():
        try:
            values[name] = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as broken:
            reason = " ".join(str(broken).split())
            raise ConfigError(
                f"{name}={text}: is no YAML ({reason}); put text with special characters in quotes"
            ) from broken
    return _build_config(values)


_NOT_OURS = ("qos_overrides.", "use_sim_time")  # rclpy's own parameters, of no use without ROS


def _parameter_blocks(document: object, file: str | Path) -> list[dict[str, Any]]:
    nodes = document.values() if isinstance(document, dict) else ()
    blocks = [node.get("ros__parameters") for node in nodes if isinstance(node, dict)]
    if not blocks or not all(isinstance(block, dict) for block in blocks):
        raise ConfigError(f"params file {file}: no ros__parameters under a node name; start it with /**:")
    return blocks  # type: ignore[return-value]  # all dicts, as just checked


def _flatten(block: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in block.items():
        flat.update(_flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _build_config(values: Mapping[str, Any]) -> Config:
    sections: dict[str, Any] = {}
    known: set[str] = set()
    for section in fields(Config):
        default: Any = section.default
        names = {f"{section.name}.{setting.name}": setting.name for setting in fields(default)}
        known |= set(names)
        sections[section.name] = type(default)(**{names[n]: v for n, v in values.items() if n in names})
    for name in values:
        if name not in known and not name.startswith(_NOT_OURS):
            raise ConfigError(f"{name} is no setting; there are {', '.join(sorted(known))}")
    return Config(**sections)
