"""Command `saccade train cache`: clips in; a folder of locked views and a teacher's targets for them out."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade_ros.config import Config
from saccade_ros.knobs import Settings, knob, required
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head
from saccade_ros.recordings.source import SourceError
from saccade_ros.train.cache import CachePlan, CacheWriter
from saccade_ros.train.locked_views import ViewedClip, survey
from saccade_ros.train.projection import KINDS
from saccade_ros.train.teachers import load_teacher


@dataclass(frozen=True)
class Options(Settings):
    """Clips, teacher and views; the config's stream section says how the clips are sampled."""

    clips: tuple[Path, ...] = required("Bags, videos, or folders of videos.", metavar="CLIP", positional=True)
    teacher: str = required(
        "Image model (.onnx, with a .json of the same name that declares its input), VideoMAE folder, or anything that "
        "encoder.model can name."
    )
    out: Path = required("Folder of the cache; one that was begun is gone on with.", metavar="FOLDER")
    tubelets: int = knob(8, "Tubelets of a view (T).", at_least=1, at_most=64)
    views_per_clip: int = knob(1, "Views taken of each clip, spread over its length.", at_least=1)
    side: int = knob(128, "Side of the student's input, in pixels.", at_least=16)
    project: str = knob("pca", "Projection of the teacher's features.", choices=KINDS)
    width: int = knob(192, "Channels of the projected features.", at_least=1)
    seed: int = knob(0, "Seed of the views and of a random projection.", at_least=0)
    config: Config = Config()


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Write the cache, or what is missing of it; return a record.

    Raises:
        CacheError, TeacherError, WeightsError, SourceError: it cannot be made as asked.
    """
    started = time.monotonic()
    plan = CachePlan(
        options.tubelets, options.views_per_clip, options.side, options.project, options.width, options.seed
    )
    teacher = load_teacher(options.teacher, options.tubelets)
    clips = _survey_all(options, subrange(progress, 0.0, 0.1))
    writer = CacheWriter(options.out, plan, clips, teacher, options.config)
    contents = writer.run(subrange(progress, 0.1, 0.9))
    return {
        "train": "cache",
        **record_head(teacher.name, teacher.weights_sha256),
        **contents["lock"],
        "views": sum(shard["views"] for shard in contents["shards"]),
        "megabytes": round(sum(file.stat().st_size for file in options.out.iterdir()) / 1e6, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def _survey_all(options: Options, progress: Progress) -> list[ViewedClip]:
    paths = [path for given in options.clips for path in _clips_in(given)]
    clips = []
    for i, path in enumerate(paths):
        progress(f"surveying {path.name}", i / len(paths))
        clips.append(survey(path, options.tubelets, options.config))
    return clips


def _clips_in(path: Path) -> list[Path]:
    """A folder of videos stands for its videos, a bag or a file for itself."""
    if path.is_dir() and not (path / "metadata.yaml").exists():
        videos = sorted(file for file in path.iterdir() if file.suffix in (".mp4", ".avi", ".webm", ".mkv"))
        if not videos:
            raise SourceError(f"{path} holds no video: give clips, or folders of them")
        return videos
    return [path]


def outputs(options: Options) -> list[Path]:
    """Return the file that makes the folder a cache."""
    return [options.out / "cache.json"]


def table(record: dict[str, Any]) -> str:
    """State what was written."""
    return (
        f"{record['views']} views of {len(record['clips'])} clips, {record['plan']['tubelets']} tubelets each, "
        f"{record['megabytes']:.0f} MB, targets of {record['teacher']['name']}, {record['seconds']:.0f} s"
    )
