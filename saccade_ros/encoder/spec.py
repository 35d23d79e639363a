"""Sizes of a V-JEPA 2 encoder: everything about a checkpoint except its weights. Imports no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saccade_ros import default_model
from saccade_ros.config import ConfigError
from saccade_ros.storage import home_path

RopeLayout = Literal["tiled", "interleaved"]

# Many times the largest released encoder (ViT-G: width 1664, depth 48, 24 patches along a side, 2e9 values). What is
# beyond is a mistake or a trap, and is refused before memory is taken for it.
_LIMITS = {"width": (1, 16384), "depth": (1, 256), "heads": (1, 1024), "mlp_width": (1, 65536)}
_LIMITS |= {"input_size": (1, 4096), "patch_size": (1, 1024), "rope_grid": (0, 256)}
_LIMITS |= {"tubelet_size": (1, 2), "frames_per_clip": (1, 4096)}
_MOST_PATCHES, _MOST_VALUES, _MOST_JSON_BYTES = 64, 2 * 10**10, 20_000_000


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
        self._check_limits()
        if self.width % self.heads:
            raise ConfigError(f"{self.name}: width {self.width} is no multiple of its {self.heads} heads")
        if self.head_width < 6:
            raise ConfigError(f"{self.name}: head width {self.head_width} leaves no room for 3D RoPE; 6 is the least")
        if self.input_size % self.patch_size:
            raise ConfigError(
                f"{self.name}: input {self.input_size} px is no multiple of its {self.patch_size} px patch"
            )

    def _check_limits(self) -> None:
        """Raise ConfigError for a size that no encoder has."""
        for name, (least, most) in _LIMITS.items():
            if not least <= (size := getattr(self, name)) <= most:
                raise ConfigError(f"{self.name}: {name} {size} is outside {least}..{most}, the sizes that are computed")
        if not 0 < self.norm_eps < 1:
            raise ConfigError(f"{self.name}: norm_eps {self.norm_eps} is outside 0..1; the released ones have 1e-6")
        values = self.depth * self.width * (4 * self.width + 2 * self.mlp_width)
        if self.grid > _MOST_PATCHES or values > _MOST_VALUES:
            raise ConfigError(
                f"{self.name}: {self.grid} patches along a side and {values} weights are too many: at most "
                f"{_MOST_PATCHES} and {_MOST_VALUES} are computed"
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


# Sizes of the released checkpoints, V-JEPA 2.1's ViT-B among them: facebookresearch/vjepa2,
# src/models/vision_transformer.py. vits and tiny are ours, for demos and tests, with the same head width 64.
SIZES: Mapping[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("tiny", width=192, depth=4, heads=3, input_size=128),
        ModelSpec("vits", width=384, depth=12, heads=6),
        ModelSpec("vitb", width=768, depth=12, heads=12),
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
    folder = home_path(default_model.locate(model))
    return spec_from_transformers(folder.resolve().name, read_model_config(folder))


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a checkpoint folder. What it says is null is left out, as transformers does.

    Raises:
        ConfigError: there is none, or it holds no JSON object.
    """
    config = read_json(folder / "config.json")
    if config is None:
        raise ConfigError(f"{folder}: no config.json; give the folder that save_pretrained wrote")
    return {key: value for key, value in config.items() if value is not None}


def read_json(file: Path) -> dict[str, Any] | None:
    """Read a JSON object of a checkpoint; None if there is no such file.

    Raises:
        ConfigError: it is too large, cannot be read, or holds no JSON object.
    """
    try:
        if file.stat().st_size > _MOST_JSON_BYTES:
            raise ConfigError(f"{file}: larger than {_MOST_JSON_BYTES} bytes, no file of a checkpoint")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ConfigError:
        raise
    except (OSError, ValueError, RecursionError) as broken:
        raise ConfigError(f"{file}: cannot be read ({broken}); download or copy it again") from broken
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: holds no JSON object; download or copy it again")
    return content


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
    width, mlp_ratio = integer(name, config, "hidden_size"), _ratio(name, config, "mlp_ratio", 4.0)
    if int(width * mlp_ratio) < 1:
        raise ConfigError(
            f"{name}: config.json has hidden_size {width} and mlp_ratio {mlp_ratio}: the MLP has no channel"
        )
    return ModelSpec(
        name,
        width=width,
        depth=integer(name, config, "num_hidden_layers", 24),
        heads=integer(name, config, "num_attention_heads", 16),
        input_size=integer(name, config, "crop_size", 256),
        mlp_width=int(width * mlp_ratio),
        patch_size=integer(name, config, "patch_size", 16),
        frames_per_clip=integer(name, config, "frames_per_clip", 64),
        norm_eps=_ratio(name, config, "layer_norm_eps", 1e-6),
    )


def integer(name: str, config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Read a whole number of a config.json; `default` is what transformers takes where there is none.

    Raises:
        ConfigError: it is missing, or of another kind.
    """
    value = config.get(key, default)
    if value is None:
        raise ConfigError(f"{name}: config.json lacks {key!r}; save the checkpoint again with transformers")
    if type(value) is not int:
        raise ConfigError(
            f"{name}: config.json has {key} {value!r:.60}, of the wrong kind: a whole number belongs there"
        )
    return value


def _ratio(name: str, config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 < value < 1000:
        raise ConfigError(f"{name}: config.json has {key} {value!r:.60}, of the wrong kind: give a number above 0")
    return float(value)


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
        "mlp_ratio": _mlp_ratio(spec),
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


def _mlp_ratio(spec: ModelSpec) -> float:
    """The ratio that transformers makes this MLP width of, which cuts the product to a whole number."""
    ratio = spec.mlp_width / spec.width
    return ratio if int(spec.width * ratio) == spec.mlp_width else math.nextafter(ratio, math.inf)
