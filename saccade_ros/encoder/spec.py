"""Sizes of a V-JEPA 2 encoder: everything about a checkpoint except its weights. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saccade_ros import default_model
from saccade_ros.config import ConfigError

RopeLayout = Literal["tiled", "interleaved"]


@dataclass(frozen=True)
class ModelSpec:
    """Sizes of an encoder, the one place of them. L depth, D width, A heads, E head width, S tokens per tubelet.

    Attributes:
        rope: "tiled" for V-JEPA 2, "interleaved" for V-JEPA 2.1; see positions.py.
        rope_grid: rows and columns are stretched over the positions of a grid of this many, as V-JEPA 2.1 does so that
            every input size uses the positions of 256 px; 0 counts them as they are (V-JEPA 2).
        frames_per_clip: frames the checkpoint was trained on; bounds the window.
    """

    name: str
    width: int
    depth: int
    heads: int
    input_size: int = 256
    mlp_width: int = 0
    patch_size: int = 16
    tubelet_size: int = 2
    frames_per_clip: int = 64
    norm_eps: float = 1e-6
    rope: RopeLayout = "tiled"
    rope_grid: int = 0

    def __post_init__(self) -> None:
        if not self.mlp_width:
            object.__setattr__(self, "mlp_width", 4 * self.width)
        if self.width % self.heads:
            raise ConfigError(f"{self.name}: width {self.width} is no multiple of its {self.heads} heads")
        if self.head_width < 6:
            raise ConfigError(f"{self.name}: head width {self.head_width} leaves no room for 3D RoPE; 6 is the least")
        if self.input_size % self.patch_size:
            raise ConfigError(
                f"{self.name}: input {self.input_size} px is no multiple of its {self.patch_size} px patch"
            )

    @property
    def grid(self) -> int:
        """Patches along one side of the picture."""
        return self.input_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Tokens per tubelet (S)."""
        return self.grid * self.grid

    @property
    def head_width(self) -> int:
        """Channels of one attention head (E)."""
        return self.width // self.heads

    @property
    def rope_width(self) -> int:
        """Channels of a head that each of depth, height and width rotates; the rest of E stays unrotated."""
        return 2 * (self.head_width // 3 // 2)

    @property
    def position_scale(self) -> float:
        """Rotary positions from one row or column of patches to the next."""
        return (self.rope_grid - 1) / max(1, self.grid - 1) if self.rope_grid else 1.0

    def token_counts(self, merge: int) -> tuple[int, ...]:
        """Tokens of a tubelet that each layer attends with, and that the last one leaves: (L+1,).

        Args:
            merge: tokens that each layer merges into others (merging.py). It merges fewer where that would be more than
                half of its tokens, or leave less than an eighth of S.
        """
        counts, least = [self.tokens], -(-self.tokens // 8)
        for _ in range(self.depth):
            counts.append(counts[-1] - min(merge, counts[-1] // 2, counts[-1] - least))
        return tuple(counts)

    @property
    def pixels_shape(self) -> tuple[int, int, int, int]:
        """Shape of a tubelet's pixels: frames, channels, rows, columns."""
        return self.tubelet_size, 3, self.input_size, self.input_size

    @property
    def patch_values(self) -> int:
        """Input values of one patch: channels x tubelet x patch x patch."""
        return 3 * self.tubelet_size * self.patch_size**2

    @property
    def trained_tubelets(self) -> int:
        """Longest window whose positions the checkpoint has seen."""
        return self.frames_per_clip // self.tubelet_size

    def check_window(self, window: int, recompute: int) -> None:
        """Check the window (W) and the tubelets recomputed per step (r) of a stream.

        Raises:
            ValueError: the window is longer than the clips the checkpoint was trained on, or recompute exceeds it.
        """
        if not 1 <= window <= self.trained_tubelets:
            raise ValueError(
                f"window {window} is outside 1..{self.trained_tubelets}, the positions that {self.name} was trained "
                f"on ({self.frames_per_clip} frames per clip)"
            )
        if not 1 <= recompute <= window:
            raise ValueError(f"recompute {recompute} is outside 1..{window}, the window")

    def check_merge(self, merge: int, recompute: int) -> None:
        """Raise ValueError if tokens merged per layer are negative, or a step recomputes tubelets that are merged."""
        if merge < 0 or (merge and recompute > 1):
            raise ValueError(
                f"merge {merge} with recompute {recompute}: give at least 0, and merge only where each tubelet is "
                "computed once (recompute 1)"
            )


# Sizes of the released checkpoints: facebookresearch/vjepa2, src/models/vision_transformer.py. vits and tiny are
# ours, for demos and tests, with the same head width 64.
SIZES: Mapping[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("tiny", width=192, depth=4, heads=3, input_size=128),
        ModelSpec("vits", width=384, depth=12, heads=6),
        ModelSpec("vitl", width=1024, depth=24, heads=16),
        ModelSpec("vith", width=1280, depth=32, heads=16),
        ModelSpec("vitg", width=1408, depth=40, heads=22, mlp_width=6144),
    )
}


def read_spec(model: str) -> ModelSpec:
    """Read the sizes of a model, and nothing else of it: of "default", a size, or a checkpoint folder.

    Raises:
        ConfigError: it is none of these, or its config.json cannot be used.
    """
    if model in SIZES:
        return SIZES[model]
    folder = Path(default_model.locate(model)).expanduser()
    return spec_from_transformers(folder.resolve().name, read_model_config(folder))


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a checkpoint folder.

    Raises:
        ConfigError: there is none, or it holds no JSON object.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no config.json; give the folder that save_pretrained wrote") from None
    except (OSError, ValueError) as broken:
        raise ConfigError(f"{file}: cannot be read ({broken}); download or copy it again") from broken
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: holds no JSON object; download or copy it again")
    return config


def spec_from_transformers(name: str, config: Mapping[str, Any]) -> ModelSpec:
    """Read the config.json of a transformers VJEPA2Model checkpoint.

    Raises:
        ConfigError: it is another kind of model, lacks a key, or uses a variant this encoder does not compute.
    """
    if config.get("model_type") != "vjepa2":
        raise ConfigError(
            f"{name}: config.json says model_type {config.get('model_type')!r}; "
            "only 'vjepa2' checkpoints of transformers load"
        )
    fixed = {"hidden_act": "gelu", "qkv_bias": True, "tubelet_size": 2, "in_chans": 3}
    for key, needed in fixed.items():
        if config.get(key, needed) != needed:
            raise ConfigError(f"{name}: config.json has {key} {config[key]!r}; this encoder computes {needed!r} only")
    try:
        width = int(config["hidden_size"])
        return ModelSpec(
            name,
            width=width,
            depth=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            input_size=int(config["crop_size"]),
            mlp_width=int(width * config["mlp_ratio"]),
            patch_size=int(config["patch_size"]),
            frames_per_clip=int(config["frames_per_clip"]),
            norm_eps=float(config["layer_norm_eps"]),
        )
    except KeyError as missing:
        raise ConfigError(
            f"{name}: config.json lacks {missing}; save the checkpoint again with transformers"
        ) from missing
    except TypeError as wrong:
        raise ConfigError(f"{name}: config.json has a value of the wrong kind ({wrong})") from wrong


def transformers_config(spec: ModelSpec) -> dict[str, Any]:
    """Make the config.json that transformers' VJEPA2Model reads, the inverse of `spec_from_transformers`.

    Raises:
        ConfigError: it has no config for such an encoder: the rotary layout is not the tiled one.
    """
    if spec.rope != "tiled" or spec.rope_grid:
        raise ConfigError(
            f"{spec.name} has {spec.rope} rotary positions: transformers' VJEPA2Model has tiled ones only"
        )
    return {
        "architectures": ["VJEPA2Model"],
        "model_type": "vjepa2",
        "crop_size": spec.input_size,
        "frames_per_clip": spec.frames_per_clip,
        "hidden_act": "gelu",
        "hidden_size": spec.width,
        "in_chans": 3,
        "layer_norm_eps": spec.norm_eps,
        "mlp_ratio": spec.mlp_width / spec.width,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.depth,
        "patch_size": spec.patch_size,
        "pred_hidden_size": spec.head_width,
        "pred_num_attention_heads": 1,
        "pred_num_hidden_layers": 0,
        "pred_num_mask_tokens": 1,
        "qkv_bias": True,
        "tubelet_size": spec.tubelet_size,
    }
