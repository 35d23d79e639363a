"""Target cache: views of clips with a frozen teacher's features, computed once: training needs no teacher.

    FOLDER/cache.json              what it is made of (the lock), written first, and the hash of every shard
    FOLDER/projection.safetensors  the projection of the features
    FOLDER/views-00000.safetensors a shard: pictures and targets of SHARD_VIEWS views

Every byte is a function of clips, teacher and options: a cache that was killed and goes on ends in the same files.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from saccade_ros.config import Config
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.storage import sha256_of, whole_path, write_json
from saccade_ros.train.locked_views import Seen, ViewedClip, draw_view, resize, show
from saccade_ros.train.projection import Projection, check_fit, fit_projection
from saccade_ros.train.teachers import Teacher, fingerprint

SHARD_VIEWS = 32
FITTED_VIEWS = 512  # that the projection is fitted to, evenly spread; fewer than twice as many, or all there are
FLOW_CELL = 16  # pixels of the student's picture on a side that motion is averaged over


class CacheError(ValueError):
    """A target cache that cannot be used or continued. The message names the file and the remedy."""


@dataclass(frozen=True)
class CachePlan:
    """Choices that decide a cache's bytes, beside clips and teacher.

    Attributes:
        tubelets: of a view (T).
        per_clip: views of each clip.
        side: of the student's pictures, in pixels.
        projection: kind, see projection.py; `width` its channels.

    Raises:
        CacheError: the student's pictures cannot be cut into patches.
    """

    tubelets: int
    per_clip: int
    side: int
    projection: str
    width: int
    seed: int

    def __post_init__(self) -> None:
        if self.side % FLOW_CELL:
            raise CacheError(f"--side is {self.side}: give a multiple of {FLOW_CELL}, the pixels of a patch")


class TargetBatch(NamedTuple):
    """Views with their targets, N of them.

    Attributes:
        pictures: (N, T, 2, side, side, 3) uint8.
        pooled: (N, T, P).
        dense: on the teacher's grid, (N, T, g, g, P).
        flow: motion from the older picture to the newer, in pixels right and down, (N, T, cells, cells, 2).
    """

    pictures: npt.NDArray[np.uint8]
    pooled: npt.NDArray[np.float16]
    dense: npt.NDArray[np.float16]
    flow: npt.NDArray[np.float16]

    def stretch(self, first: int, tubelets: int) -> "TargetBatch":
        """Take so many tubelets of every view, from `first` on."""
        return TargetBatch(*(part[:, first : first + tubelets] for part in self))  # type: ignore[arg-type]  # in order


class CacheWriter:
    """Writing of a cache, from where an earlier run of the same stopped.

    Raises:
        CacheError: the folder holds a cache of other clips, another teacher or other options.
        TeacherError: there are too few views, or the teacher has too few channels, for the projection.
    """

    def __init__(
        self, folder: Path, plan: CachePlan, clips: list[ViewedClip], teacher: Teacher, config: Config
    ) -> None:
        self._folder, self._plan, self._clips, self._teacher = folder, plan, clips, teacher
        self._config, self._views = config, len(clips) * plan.per_clip
        check_fit(plan.projection, len(self._fitted()) * plan.tubelets, teacher.width, plan.width)
        self._contents: dict[str, Any] = {"lock": self._lock(), "shards": []}
        self._resume()

    def run(self, progress: Progress) -> dict[str, Any]:
        """Write what is missing; return the contents of cache.json."""
        projection = self._projection(subrange(progress, 0.0, 0.1))
        shards, done = -(-self._views // SHARD_VIEWS), self._contents["shards"]
        while len(done) < shards:
            progress(f"shard {len(done) + 1} of {shards}", 0.1 + 0.9 * len(done) / shards)
            done.append(self._write_shard(len(done), projection))
            write_json(self._folder / "cache.json", self._contents)
        return self._contents

    def _lock(self) -> dict[str, Any]:
        clips = [{"name": c.path.name, "tubelets": c.tubelets, "sha256": c.sha256} for c in self._clips]
        made_of = {
            "teacher": fingerprint(self._teacher, self._plan.tubelets),
            "plan": asdict(self._plan),
            "clips": clips,
        }
        return {**made_of, "fps": self._config.stream.fps}

    def _resume(self) -> None:
        """Go on from cache.json; where there is none, write it first, for no other cache to go on with the rest."""
        file = self._folder / "cache.json"
        if not file.exists():
            self._projection_file.unlink(missing_ok=True)
            write_json(file, self._contents)
            return
        found = _read_contents(file)
        if difference := _difference(found["lock"], self._contents["lock"]):
            raise CacheError(f"{file} was made with another {difference}: give the same, or another folder")
        self._contents = found

    @property
    def _projection_file(self) -> Path:
        return self._folder / "projection.safetensors"

    def _fitted(self) -> range:
        """Views that the projection is fitted to."""
        return range(0, self._views, max(1, self._views // FITTED_VIEWS))

    def _projection(self, progress: Progress) -> Projection:
        file = self._projection_file
        if not file.exists():
            pooled = []
            for view in self._show(self._fitted()):
                progress("fitting the projection", view.number / self._views)
                pooled.append(self._teacher.dense(view.pictures[None]).mean(axis=(0, 2, 3)))  # (T, C)
            plan = self._plan
            fit_projection(plan.projection, np.concatenate(pooled), plan.width, plan.seed).save(file)
        return Projection.load(file)

    def _show(self, numbers: range) -> Iterator[Seen]:
        """Pictures of views, at the teacher's size, clip by clip."""
        views = [(number, draw_view(self._plan.seed, number, self._plan.per_clip)) for number in numbers]
        for clip in sorted({view.clip for _, view in views}):
            of_clip = [(number, view) for number, view in views if view.clip == clip]
            yield from show(of_clip, self._clips[clip], self._plan.tubelets, self._teacher.side, self._config)

    def _write_shard(self, index: int, projection: Projection) -> dict[str, Any]:
        numbers = range(index * SHARD_VIEWS, min((index + 1) * SHARD_VIEWS, self._views))
        rows = [self._row(seen, projection) for seen in self._show(numbers)]
        tensors = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        file = self._folder / f"views-{index:05}.safetensors"
        with whole_path(file) as path:
            save_file(tensors, path)
        return {"file": file.name, "views": len(rows), "sha256": sha256_of(file)}

    def _row(self, seen: Seen, projection: Projection) -> dict[str, npt.NDArray[Any]]:
        """Tensors of one view."""
        dense = projection(self._teacher.dense(seen.pictures[None])[0])  # (T, g, g, P)
        pictures = np.stack([resize(p, self._plan.side) for p in seen.pictures.reshape(-1, *seen.pictures.shape[2:])])
        pictures = pictures.reshape(*seen.pictures.shape[:2], *pictures.shape[1:])  # (T, 2, side, side, 3)
        return {
            "pictures": pictures,
            "pictures_sha256": np.frombuffer(hashlib.sha256(pictures.tobytes()).digest(), np.uint8),
            "pooled": dense.mean(axis=(1, 2)).astype(np.float16),
            "dense": dense.astype(np.float16),
            "flow": np.stack([motion(older, newer) for older, newer in pictures]),
            "stamps_ns": seen.stamps_ns,
            "view": seen.view.numbers(),
        }


def motion(older: npt.NDArray[np.uint8], newer: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    """Compute optical flow (DIS, Kroeger et al. 2016), averaged: (side, side, 3) each -> (cells, cells, 2)."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    before, after = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (older, newer))
    flow = method.calc(before, after, np.zeros((*before.shape, 2), np.float32))  # (side, side, 2)
    cells = len(older) // FLOW_CELL
    return np.asarray(cv2.resize(flow, (cells, cells), interpolation=cv2.INTER_AREA), dtype=np.float16)


class TargetCache:
    """A finished cache, to be trained on. Every shard's hash is checked once, on opening.

    Attributes:
        lock: what it was made of.
        views: how many there are (N).

    Raises:
        CacheError: it is not finished, or a file is missing, damaged or of another cache.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        contents = _read_contents(folder / "cache.json")
        self.lock, self._shards = contents["lock"], contents["shards"]
        self.views = len(self.lock["clips"]) * self.plan.per_clip
        if sum(shard["views"] for shard in self._shards) != self.views:
            raise CacheError(f"{folder} is not finished: give `saccade train cache` the same arguments once more")
        self._files = [folder / shard["file"] for shard in self._shards]
        for i, file in enumerate(self._files):
            progress(f"checking {file.name}", i / len(self._files))
            self._check(file, self._shards[i]["sha256"])
            self._check_views(file, range(i * SHARD_VIEWS, i * SHARD_VIEWS + self._shards[i]["views"]))

    @staticmethod
    def _check(file: Path, sha256: str) -> None:
        if not file.is_file():
            raise CacheError(f"{file} is missing: copy the cache again, or make it again")
        if sha256_of(file) != sha256:
            raise CacheError(f"{file} is not the file that cache.json names: copy it again, or make the cache again")

    def _check_views(self, file: Path, numbers: range) -> None:
        with safe_open(file, framework="np") as opened:
            stored = opened.get_tensor("view")
        drawn = [draw_view(self.plan.seed, number, self.plan.per_clip).numbers() for number in numbers]
        if stored.shape != np.shape(drawn) or not np.allclose(stored, drawn, rtol=1e-9):
            raise CacheError(f"{file} shows other views than cache.json's seed draws: make the cache again")

    @property
    def plan(self) -> CachePlan:
        """Options that it was made with."""
        return CachePlan(**self.lock["plan"])

    @property
    def digest(self) -> str:
        """Hash of lock and shards, by which a training knows its cache again."""
        text = json.dumps([self.lock, self._shards], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self, numbers: npt.NDArray[np.int64]) -> TargetBatch:
        """Read views by number."""
        rows = [self._read_view(int(number)) for number in numbers]
        return TargetBatch(*(np.stack(part) for part in zip(*rows, strict=True)))

    def _read_view(self, number: int) -> tuple[npt.NDArray[Any], ...]:
        shard, row = divmod(number, SHARD_VIEWS)
        with safe_open(self._files[shard], framework="np") as opened:
            return tuple(opened.get_slice(name)[row] for name in TargetBatch._fields)


def _read_contents(file: Path) -> dict[str, Any]:
    try:
        contents = dict(json.loads(file.read_text(encoding="utf-8")))
        return {name: contents[name] for name in ("lock", "shards")}
    except (OSError, ValueError, TypeError, KeyError) as broken:
        raise CacheError(f"{file} cannot be read ({broken}): give a folder of `saccade train cache`") from broken


def _difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Name the first entry of two locks that differs, with both values where they are short; empty if none does."""
    for name, value in here.items():
        if (found := there.get(name)) == value:
            continue
        if isinstance(value, dict) and isinstance(found, dict):
            return f"{name}: {_difference(found, value)}"
        return name if isinstance(value, list) else f"{name} ({found}, here {value})"
    return ""
