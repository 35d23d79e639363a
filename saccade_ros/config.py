"""Settings of saccade_ros: one frozen dataclass per stage, units in the names, validated on construction.

Each is declared here, those of gate and token selection in plan_config.py, and nowhere else. The Python API, the ROS
parameters (`gate.tau`), the launch and command line arguments, config/encoder.yaml and docs/parameters.md are derived
from these dataclasses; `make docs` writes the files.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from saccade_ros import default_model
from saccade_ros.knobs import ConfigError as ConfigError
from saccade_ros.knobs import Settings, knob, shown
from saccade_ros.plan_config import GateConfig as GateConfig
from saccade_ros.plan_config import TokensConfig as TokensConfig
from saccade_ros.runtimes import DEVICES, PRECISIONS, RUNTIMES


@dataclass(frozen=True)
class StreamConfig(Settings):
    """Sampling of frames into tubelets, and resets of a stream."""

    prefix: ClassVar[str] = "stream"

    fps: float = knob(
        4.0,
        "Frames per second taken from each camera, by header stamp; two frames make a tubelet. V-JEPA 2 was trained at "
        "4 (fps in configs/train of facebookresearch/vjepa2). 0 takes every frame.",
        at_least=0.0,
        at_most=1000.0,
    )
    max_gap_s: float = knob(
        2.0,
        "Seconds without a frame after which a stream is reset: its cache is emptied.",
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
class VisionConfig(Settings):
    """Preparation of a camera's picture as the encoder's square input."""

    prefix: ClassVar[str] = "vision"

    fit: str = knob(
        "crop",
        "Way to make a picture square: 'crop' is the checkpoint's own evaluation transform (shorter side to "
        "256/224 of the input, centre crop), 'stretch' keeps the whole field of view and distorts it.",
        choices=("crop", "stretch"),
    )
    max_megapixels: float = knob(
        16.0, "Largest picture accepted, in millions of pixels; a larger one is dropped and counted.", at_least=0.001
    )
    mono16_range: tuple[int, ...] = knob(
        (0, 65535),
        "Samples of 16-bit images (mono16, and 16-bit colours and mosaics) that become black and white; those beyond "
        "become the same. A 14-bit camera wants 0, 16383, a thermal one the range of its scene. Where few of the 256 "
        "grey levels are in use, a warning names them.",
        at_least=0,
        at_most=65535,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mono16_range) != 2 or self.mono16_range[0] >= self.mono16_range[1]:
            raise ConfigError(
                f"vision.mono16_range is {list(self.mono16_range)}: give the samples of black and of white, the "
                "smaller first, such as 0, 16383"
            )


@dataclass(frozen=True)
class EncoderConfig(Settings):
    """Model, the past that it sees, and the embedding that it gives."""

    prefix: ClassVar[str] = "encoder"

    model: str = knob(
        default_model.NAME,
        "'default', the small trained model that comes with the package; folder or hub id of a transformers V-JEPA 2 "
        f"checkpoint, such as {default_model.V_JEPA_2} (@REVISION behind a hub id pins it); a .pt file as released "
        "with V-JEPA 2.1; a folder that `saccade export` wrote; or a size with RANDOM weights, for timing: tiny, vits, "
        "vitb, vitl, vith, vitg.",
    )
    input_size: int = knob(
        0,
        "Input's side in pixels of a .pt file, which does not say it. 0: the number that its name ends with, if that "
        "is an input size, else 256 (V-JEPA 2) or 384 (2.1). Any other model says it itself.",
        at_least=0,
        at_most=4096,
    )
    adapter: str = knob(
        "",
        "File of a causal adapter that `saccade train causal` wrote for these weights; merged into them at load. "
        "Empty: none.",
    )
    head: str = knob(
        "",
        "File of a linear classifier that names each embedding (label and score), as LinearHead.save writes it. Empty: "
        "the checkpoint's own, where encoder.pooling is probe.",
    )
    seed: int = knob(0, "Seed of the random weights, when the model is a size.", at_least=0, at_most=2**31 - 1)
    window: int = knob(
        8, "Tubelets in the cache (W), at most as many as the checkpoint was trained on.", at_least=1, at_most=1024
    )
    recompute: int = knob(
        1,
        "Newest tubelets recomputed in each step (r): 1 is the causal step, r = window is exactly the "
        "bidirectional clip encoder, at window times the cost.",
        at_least=1,
        at_most=1024,
    )
    merge: int = knob(
        0,
        "Tokens that each layer merges into similar ones: later layers are cheaper and their cache smaller, and "
        "embeddings less faithful. A layer merges at most half of its tokens, and leaves at least an eighth of a "
        "tubelet's. 0 merges none.",
        at_least=0,
        at_most=1024,
    )
    pooling: str = knob(
        "newest",
        "Pooling of tokens to the embedding: 'newest' is the mean over the newest tubelet, 'window' that over the "
        "whole window, 'probe' the attentive pooler of a video-classification checkpoint over the window, which brings "
        "label and score.",
        choices=("newest", "window", "probe"),
    )
    normalize: bool = knob(False, "True scales each embedding to length 1.")
    area_grid: str = knob(
        "1x1",
        "Areas, rows x columns, that the picture is cut in for the first encoder.area_layers layers: there a token "
        "attends to its own area only, in the whole window. Cheaper and less faithful; `saccade evaluate areas` "
        "measures both. 1x1: off.",
    )
    area_layers: int = knob(
        0, "First layers that attend by area (see encoder.area_grid). 0: none.", at_least=0, at_most=1024
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ConfigError("encoder.model is empty: give default, a checkpoint folder or a hub id")
        if self.recompute > self.window:
            raise ConfigError(
                f"encoder.recompute is {self.recompute}, more than encoder.window {self.window}: "
                "only tubelets in the window can be recomputed; lower recompute or raise window"
            )
        if self.merge and self.recompute > 1:
            raise ConfigError(
                f"encoder.merge is {self.merge} with encoder.recompute {self.recompute}: merging needs each tubelet to "
                "be computed once; set merge 0 or recompute 1"
            )
        if self.merge and self.pooling == "probe":
            raise ConfigError(
                f"encoder.merge is {self.merge} with encoder.pooling probe, which was trained on all tokens: set merge "
                "0, or another pooling"
            )
        if self.normalize and self.pooling == "probe":
            raise ConfigError(
                "encoder.normalize is true with encoder.pooling probe, whose classifier needs the length: set it false"
            )
        if self.merge and self.area_layers and self.area_grid != "1x1":
            raise ConfigError(
                f"encoder.merge is {self.merge} with encoder.area_grid {self.area_grid}: merged tokens have no area; "
                "set merge 0 or area_layers 0"
            )
        if not re.fullmatch(r"[1-9]\d{0,2}x[1-9]\d{0,2}", self.area_grid):
            raise ConfigError(
                f"encoder.area_grid is {shown(self.area_grid)}: give rows x columns, such as 2x2; 1x1 is off"
            )

    @property
    def area_shape(self) -> tuple[int, int]:
        """Rows and columns of areas."""
        rows, columns = self.area_grid.split("x")
        return int(rows), int(columns)


@dataclass(frozen=True)
class BackendConfig(Settings):
    """Runtime that computes the encoder, its device and arithmetic."""

    prefix: ClassVar[str] = "backend"

    name: str = knob(
        "auto",
        "Runtime that computes the encoder. auto: by the rule of docs/export.md, the fastest here that keeps "
        "backend.fidelity; ~/info and `saccade doctor` say which and why.",
        choices=("auto", *RUNTIMES),
    )
    device: str = knob(
        "auto",
        "Processor that computes the encoder. auto: an NVIDIA GPU if the runtime sees one, else the CPU. 'gpu' and "
        "'npu' are Intel's, by OpenVINO.",
        choices=("auto", *DEVICES),
    )
    precision: str = knob(
        "auto",
        "Arithmetic of the encoder: fp32 is the reference, bf16 is faster where the CPU or GPU has it, int8 (linear "
        "layers; the rest in bf16) faster still and less faithful; fp16 is for GPUs, int8-static and int4 come from "
        "an export. auto: of an exported folder the fastest that keeps backend.fidelity, else fp32.",
        choices=("auto", *PRECISIONS),
    )
    fidelity: float = knob(
        0.99,
        "Least mean centred cosine to torch fp32 that `auto` may choose, as an export has measured it on its held-out "
        "clip. What was not measured, as any precision of a checkpoint, is not chosen below fp32.",
        at_least=-1.0,
        at_most=1.0,
    )
    threads: int = knob(0, "CPU threads for the encoder. 0 leaves the runtime's default.", at_least=0, at_most=1024)
    allow_cpu_fallback: bool = knob(
        False,
        "True lets ONNX Runtime and OpenVINO use the CPU where they cannot use the GPU asked for. False: that is an "
        "error.",
    )


@dataclass(frozen=True)
class NodeConfig(Settings):
    """Topics of the encoder node, and its start."""

    prefix: ClassVar[str] = "node"

    topics: tuple[str, ...] = knob(
        ("/camera/image_raw",),
        "Image topics, one stream each, one model for all. The type is the publisher's, sensor_msgs/Image or "
        "CompressedImage; while nobody publishes, a name ending in /compressed is taken for the latter.",
    )
    output_topic: str = knob("/saccade/embedding", "Topic of saccade_ros/Embedding.")
    max_latency_s: float = knob(
        10.0,
        "Seconds from a tubelet's newer image received to its embedding: a later one is not published but counted as "
        "late, and a tubelet that is still decoded or encoded then is an error. 0: no limit.",
        at_least=0.0,
        at_most=86400.0,
    )
    hang_exit_s: float = knob(
        0.0,
        "Seconds that a tubelet is decoded and encoded, after which it is taken for hanging and the process ends with "
        "status 1, for launch's respawn or another supervisor to start it again. 0: never.",
        at_least=0.0,
        at_most=86400.0,
    )
    autostart: bool = knob(
        True, "True configures and activates the node at start. False waits for a lifecycle manager or the launch file."
    )

    silence_s: float = knob(
        3.0,
        "Seconds after which /diagnostics warns that no image came, or that images come and no embedding does (then "
        "with the time of two images at stream.fps on top).",
        at_least=0.1,
        at_most=3600.0,
    )
    loss_share: float = knob(
        0.1,
        "Share of the images of ten seconds above which /diagnostics warns of those that were lost on the way, came "
        "faster than they were encoded, or made the stream start afresh.",
        at_least=0.0,
        at_most=1.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.topics or not all(topic.strip() for topic in self.topics):
            raise ConfigError(f"node.topics is {list(self.topics)}: name at least one image topic, none of them empty")
        if len(set(self.topics)) < len(self.topics):
            raise ConfigError(f"node.topics is {list(self.topics)}: name each topic once")
        if not self.output_topic.strip():
            raise ConfigError("node.output_topic is empty: name the topic of the embeddings")


@dataclass(frozen=True)
class Config:
    """All settings, by stage."""

    stream: StreamConfig = StreamConfig()
    vision: VisionConfig = VisionConfig()
    gate: GateConfig = GateConfig()
    tokens: TokensConfig = TokensConfig()
    encoder: EncoderConfig = EncoderConfig()
    backend: BackendConfig = BackendConfig()
    node: NodeConfig = NodeConfig()
