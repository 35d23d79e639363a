"""Gaze with an evaluation of the reconstruction, after AutoGaze: `saccade evaluate gaze`.

Of each tubelet a viewer is sent some patches, and the canvas shows each patch as it was when it was last sent. How near
the canvas is to the picture is measured in a number of settings, for our choice of patches beside an even and a random
one. Only pictures are looked at, no encoder is loaded.
"""

import csv
import io
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saccade_ros.backends.manifest import is_export, read_manifest
from saccade_ros.config import Config, ConfigError, StreamConfig
from saccade_ros.encoder.spec import ModelSpec, read_spec
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head, save_record
from saccade_ros.recordings.clip import read_clip
from saccade_ros.storage import write_file
from saccade_ros.studies.gaze_pictures import draw_frames, draw_grid, draw_heat, draw_tradeoff
from saccade_ros.studies.gaze_rules import gaze_settings
from saccade_ros.studies.gaze_viewers import ClipGaze, Row, show_clip

KEYS = ("clip", "setting", "rule")
MEANS = {
    "tokens": "patches sent of a tubelet",
    "actual_ratio": "the same, of all its patches; the first tubelet of a clip is sent whole",
    "reconstruction_loss": "mean squared error of the canvas in normalised pixels",
    "pixel_mae": "mean absolute error in grey levels, 0 to 255",
    "pixel_mse": "mean squared error in grey levels",
    "psnr_db": "peak signal-to-noise ratio; 100 if the canvas is exact",
    "ssim": "structural similarity of the brightness (Wang et al. 2004)",
    "selection_ms": "time to choose the patches, in milliseconds",
    "reconstruction_ms": "time to show them on the canvas, in milliseconds",
}
WORST = {"worst_psnr_db": "psnr_db", "worst_ssim": "ssim"}


@dataclass(frozen=True)
class Options(Settings):
    """Clips to look at; the config's stream and vision sections say how they are sampled, encoder.model how large."""

    clips: tuple[Path, ...] = required("Bags or videos.", metavar="CLIP", positional=True)
    out: Path = knob(Path("gaze"), "Folder for tables, plots and picture grids.", metavar="FOLDER")
    input_size: int = knob(0, "Side of the picture in pixels. 0: that of encoder.model.", at_least=0, at_most=4096)
    patch_size: int = knob(0, "Side of a patch in pixels. 0: that of encoder.model.", at_least=0, at_most=4096)
    psnr_db: float = knob(
        30.0, "PSNR that the settings 'error' and 'both' bring the canvas to.", at_least=0.0, at_most=100.0
    )
    ratio_cap: float = knob(
        0.25, "Largest part of the patches that the setting 'both' sends.", at_least=0.001, at_most=1.0
    )
    tubelets: int = knob(0, "Tubelets to take of each clip's start. 0 takes all.", at_least=0)
    seed: int = knob(0, "Seed of the random rule.", at_least=0)
    config: Config = Config(stream=StreamConfig(fps=0.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        name, count = Counter(path.name for path in self.clips).most_common(1)[0]
        if count > 1:
            raise ConfigError(f"{count} clips are named {name}: rename some, the tables tell clips apart by name")


@dataclass
class Gaze:
    """Outcome of the evaluation.

    Attributes:
        metadata: the record: machine, options, meaning of the columns, and means by clip and over the clips.
        clips: every tubelet and picture.
    """

    metadata: dict[str, Any]
    clips: list[ClipGaze] = field(default_factory=list)


def run(options: Options, progress: Progress) -> Gaze:
    """Show each clip to the viewers of every setting and rule.

    Raises:
        SourceError: a clip cannot be read.
        ConfigError, ManifestError: the sizes do not fit each other, or encoder.model has none to read.
    """
    started = time.monotonic()
    sizes, settings = _sizes(options), gaze_settings(options.psnr_db, options.ratio_cap)
    clips = []
    for i, path in enumerate(options.clips):
        told = subrange(progress, i / len(options.clips), 1 / len(options.clips))
        told(f"reading {path.name}", 0.0)
        clip = read_clip(path, options.config, sizes.input_size, options.tubelets)
        clips.append(show_clip(path.name, clip, settings, sizes.patch_size, options.seed, told))
    by_clip = clip_means([row for clip in clips for row in clip.rows])
    metadata = {
        "evaluate": "gaze",
        **record_head("none: only pictures are looked at", ""),
        "input_size": sizes.input_size,
        "patch_size": sizes.patch_size,
        "tokens": sizes.tokens,
        "fps": options.config.stream.fps,
        "fit": options.config.vision.fit,
        "seed": options.seed,
        "psnr_db": options.psnr_db,
        "ratio_cap": options.ratio_cap,
        "settings": [setting._asdict() for setting in settings],
        "columns": MEANS,
        "clips": [{"name": clip.name, "tubelets": clip.tubelets, "seconds": clip.seconds} for clip in clips],
        "summary": summary_means(by_clip),
        "by_clip": by_clip,
        "seconds": round(time.monotonic() - started, 1),
    }
    return Gaze(metadata, clips)


def _sizes(options: Options) -> ModelSpec:
    """Sizes of encoder.model, or those given in their place."""
    size, patch = options.input_size, options.patch_size
    if not size or not patch:
        model = options.config.encoder.model
        spec = read_manifest(model).spec if is_export(model) else read_spec(model)
        size, patch = size or spec.input_size, patch or spec.patch_size
    return ModelSpec("evaluate gaze", width=64, depth=1, heads=1, input_size=size, patch_size=patch)


def clip_means(rows: Sequence[Row]) -> list[Row]:
    """Means over the tubelets of each clip, setting and rule, and the worst tubelet."""
    return [
        {**dict(zip(KEYS, key, strict=True)), "tubelets": len(of), **_means(of), **_worst(of, WORST)}
        for key, of in _grouped(rows, KEYS)
    ]


def summary_means(by_clip: Sequence[Row]) -> list[Row]:
    """Means of `clip_means` over the clips, each of the same weight, and the worst tubelet of all."""
    return [
        {**dict(zip(KEYS[1:], key, strict=True)), "clips": len(of), **_means(of), **_worst(of, {w: w for w in WORST})}
        for key, of in _grouped(by_clip, KEYS[1:])
    ]


def _grouped(rows: Sequence[Row], keys: Sequence[str]) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    yield from groups.items()


def _means(rows: Sequence[Row]) -> Row:
    return {name: sum(row[name] for row in rows) / len(rows) for name in MEANS}


def _worst(rows: Sequence[Row], columns: dict[str, str]) -> Row:
    return {name: min(row[column] for row in rows) for name, column in columns.items()}


def table(gaze: Gaze) -> str:
    """Tabulate the means over the clips, a line per setting and rule."""
    found = gaze.metadata
    names = ", ".join(clip["name"] for clip in found["clips"])
    head = (
        f"{names}; {found['input_size']} px in patches of {found['patch_size']} px; 'error': "
        f"{found['psnr_db']:g} dB; 'both': {found['psnr_db']:g} dB with at most {found['ratio_cap']:.0%} of the patches"
    )
    return "\n".join([head, "", *_lines(found["summary"])])


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        f"{'setting':<12}{'rule':<9}{'sent':>8}{'PSNR, dB':>10}{'worst':>8}{'SSIM':>8}{'worst':>8}"
        f"{'MAE':>8}{'MSE':>9}{'loss':>9}{'choose, ms':>12}{'show, ms':>10}"
    )
    for row in rows:
        yield (
            f"{row['setting']:<12}{row['rule']:<9}{row['actual_ratio']:>8.1%}{row['psnr_db']:>10.2f}"
            f"{row['worst_psnr_db']:>8.2f}{row['ssim']:>8.4f}{row['worst_ssim']:>8.4f}{row['pixel_mae']:>8.3f}"
            f"{row['pixel_mse']:>9.2f}{row['reconstruction_loss']:>9.5f}{row['selection_ms']:>12.3f}"
            f"{row['reconstruction_ms']:>10.3f}"
        )


def summary_text(gaze: Gaze) -> str:
    """Write the means over the clips, then those of each clip, as text."""
    parts = [table(gaze)]
    for clip in gaze.metadata["clips"]:
        rows = [row for row in gaze.metadata["by_clip"] if row["clip"] == clip["name"]]
        parts += ["", f"{clip['name']}, {clip['tubelets']} tubelets", *_lines(rows)]
    columns = (f"{name}: {meaning}" for name, meaning in MEANS.items())
    return "\n".join([*parts, "", *columns, ""])


def outputs(options: Options) -> list[Path]:
    """Return one of the files that `save` writes for any clip."""
    return [options.out / "metadata.json"]


def save(gaze: Gaze, options: Options) -> Iterator[Path]:
    """Write tables, plots and picture grids, and yield each."""
    found, out = gaze.metadata, options.out
    rows = [row for clip in gaze.clips for row in clip.rows]
    tables = {"metrics_by_clip_setting": found["by_clip"], "metrics_by_frame": rows}
    for name, of in {**tables, "summary_by_setting": found["summary"]}.items():
        yield _write(out / f"{name}.csv", csv_text(of))
    yield _write(out / "summary.txt", summary_text(gaze))
    yield save_record(found, out / "metadata.json")
    yield draw_tradeoff(found, out / "tradeoff.png")
    for clip in gaze.clips:
        pictures = out / "pictures" / clip.name
        yield draw_frames(clip, found["psnr_db"], pictures / "frames.png")
        yield draw_heat(clip, found["tokens"], pictures / "heat.png")
        for setting in found["settings"]:
            yield draw_grid(clip, setting["name"], found["patch_size"], pictures / f"{setting['name']}.png")


def csv_text(rows: Sequence[Row]) -> str:
    """Write rows of the same columns as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write(file: Path, text: str) -> Path:
    write_file(file, text)
    return file
