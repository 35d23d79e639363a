"""Identity of an encoder's vectors: the one place that makes `encoder_id`.

    c2ac9a3f5a1e-91d0:fp32:256px-crop:window8:recompute1:newest

It holds what changes vectors, and nothing else: a checkpoint's copy in another folder, or another runtime of the same
precision, has the same id. An adapter, and the mean and deviation of a checkpoint's preprocessor, are in its weights.
"""

import hashlib
import json
from dataclasses import asdict

from saccade_ros.config import EncoderConfig
from saccade_ros.encoder.spec import ModelSpec

_ELSEWHERE = ("name", "input_size", "frames_per_clip")  # no part of the weights' meaning, or in the id as it is


def identify(
    spec: ModelSpec, sha256: str, precision: str, encoder: EncoderConfig, fit: str, areas: str, probe_sha256: str
) -> str:
    """Make the id: digests of the weights and of the sizes they are computed with; then the settings, in words.

    Args:
        sha256: hex digest of the weights.
        fit: way that pictures are made square (vision.fit).
        areas: name of the areas that layers attend by; empty if none does.
        probe_sha256: hex digest of the attentive probe; empty if there is none.
    """
    sizes = {name: value for name, value in asdict(spec).items() if name not in _ELSEWHERE}
    computed_with = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()
    return ":".join(
        [
            f"{sha256[:12]}-{computed_with[:4]}",
            precision,
            f"{spec.input_size}px-{fit}",
            f"window{encoder.window}",
            f"recompute{encoder.recompute}",
            encoder.pooling + (f"-{probe_sha256[:8]}" if probe_sha256 else ""),
            *["unit"] * encoder.normalize,
            *[f"merge{encoder.merge}"] * (encoder.merge > 0),
            *[areas] * bool(areas),
        ]
    )
