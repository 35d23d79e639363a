"""Target caches of small clips, made by the command."""

from pathlib import Path

from saccade_ros.cli import main

OPTIONS = ["--tubelets", "4", "--views-per-clip", "8", "--side", "32", "--width", "8", "--set", "stream.fps=0"]


def make_cache(clips: Path, teacher: Path, folder: Path, *options: str) -> int:
    """Views of 4 tubelets, eight of each clip, if `options` say nothing else; returns the exit status."""
    return main(["train", "cache", str(clips), "--teacher", str(teacher), "--out", str(folder), *OPTIONS, *options])
