"""Options of an export: of the command `saccade export`, of the export node's parameters, goals and launch file."""

from dataclasses import dataclass
from pathlib import Path

from saccade_ros.config import EncoderConfig
from saccade_ros.knobs import ConfigError, Settings, knob, required, same_as
from saccade_ros.runtimes import EXPORT_PRECISIONS, PRECISIONS

OFFERS = "; ".join(f"{form} has {', '.join(precisions)}" for form, precisions in EXPORT_PRECISIONS.items())


@dataclass(frozen=True)
class ExportOptions(Settings):
    """Encoder to export, artifacts wanted of it, and the conditions under which they are accepted.

    Raises:
        ConfigError: an option that cannot work, alone or together with the others.
    """

    model: str = required(
        "'default', folder or hub id of a transformers V-JEPA 2 checkpoint, a .pt file as released with V-JEPA 2.1, "
        "or a size with RANDOM weights: tiny, vits, vitb, vitl, vith, vitg."
    )
    out: Path = required("Output folder; it appears whole or not at all.", metavar="FOLDER")
    calibration: str = required("Bag or video to calibrate ranges and to measure artifacts on.", metavar="CLIP")
    held_out: str = knob(
        "", "Another bag or video to judge artifacts by. Empty: the calibration clip's second half.", metavar="CLIP"
    )
    formats: tuple[str, ...] = knob(("onnx",), "Formats of the files to write.", choices=tuple(EXPORT_PRECISIONS))
    precisions: tuple[str, ...] = knob(
        ("fp32", "int8"), f"Precisions to make; each format takes those it has: {OFFERS}.", choices=PRECISIONS
    )
    window: int = same_as(EncoderConfig, "window")
    recompute: int = same_as(EncoderConfig, "recompute")
    merge: int = same_as(EncoderConfig, "merge")
    area_grid: str = same_as(EncoderConfig, "area_grid")
    area_layers: int = same_as(EncoderConfig, "area_layers")
    input_size: int = same_as(EncoderConfig, "input_size")
    batch: int = knob(1, "Streams per call. The encoder node takes 1.", at_least=1, at_most=1024)
    adapter: str = same_as(EncoderConfig, "adapter")
    seed: int = same_as(EncoderConfig, "seed")
    tubelets: int = knob(
        32, "Tubelets to use of each clip; at least the window, to fill the cache.", at_least=4, at_most=100_000
    )
    threads: int = knob(0, "CPU threads. 0 leaves the runtimes' default.", at_least=0, at_most=1024)
    fidelity_floor: float = knob(
        0.99, "Least mean centred cosine on the held-out clip; what is below is refused.", at_least=-1.0, at_most=1.0
    )
    force: bool = knob(False, "True keeps what would be refused, with a warning in the manifest.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.calibration:
            raise ConfigError("calibration is empty: every artifact is measured on a clip; give a bag or a video")
        if self.merge and self.recompute > 1:
            raise ConfigError(f"merge is {self.merge} with recompute {self.recompute}: set merge 0 or recompute 1")
        if not self.pairs():
            formats, precisions = (", ".join(names) or "none" for names in (self.formats, self.precisions))
            raise ConfigError(f"formats {formats} have no precision of {precisions}: {OFFERS}")
        if self.batch > 1 and ("onnx", "int8-static") in self.pairs():
            raise ConfigError(f"batch is {self.batch}: int8-static is calibrated on a single stream; give 1")

    def pairs(self) -> list[tuple[str, str]]:
        """Return each (format, precision) that is wanted and exists, once."""
        wanted = ((form, precision) for form in self.formats for precision in self.precisions)
        return list(dict.fromkeys((f, p) for f, p in wanted if p in EXPORT_PRECISIONS[f]))
