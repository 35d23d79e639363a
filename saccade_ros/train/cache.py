"""Target cache: views of clips with a frozen teacher's features, computed once: training needs no teacher.

    FOLDER/cache.json              what it was made of (the lock), and the hash of every shard
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
from saccade_ros.storage import whole_path, write_json
from saccade_ros.train.locked_views import Seen, ViewedClip, draw_view, resize, show
from saccade_ros.train.projection import Projection, fit_projection
from saccade_ros.train.teachers import Teacher, fingerprint

SHARD_VIEWS = 32
FITTED_VIEWS = 512  # at most, that the projection is fitted to
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
    """

    tubelets: int
    per_clip: int
    side: int
    projection: str
    width: int
    seed: int


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
    """

    def __init__(
        self, folder: Path, plan: CachePlan, clips: list[ViewedClip], teacher: Teacher, config: Config
    ) -> None:
        self._folder, self._plan, self._clips, self._teacher = folder, plan, clips, teacher
        self._config, self._views = config, len(clips) * plan.per_clip
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
        file = self._folder / "cache.json"
        if not file.exists():
            return
        found = _read_contents(file)
        for name, value in self._contents["lock"].items():
            if found["lock"].get(name) != value:
                raise CacheError(f"{file} was made with another {name}: give the same, or another folder")
        self._contents = found

    def _projection(self, progress: Progress) -> Projection:
        file = self._folder / "projection.safetensors"
        if not file.exists():
            step = max(1, self._views // FITTED_VIEWS)
            seen = self._show(range(0, self._views, step))
            pooled = []
            for view in seen:
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
        return {"file": file.name, "views": len(rows), "sha256": _sha256(file)}

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
            "view": np.array([seen.view.clip, *seen.view[1:6], *seen.view.gains], np.float64),
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

    @staticmethod
    def _check(file: Path, sha256: str) -> None:
        if not file.is_file():
            raise CacheError(f"{file} is missing: copy the cache again, or make it again")
        if _sha256(file) != sha256:
            raise CacheError(f"{file} is not the file that cache.json names: copy it again, or make the cache again")

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
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as broken:
        raise CacheError(f"{file} cannot be read ({broken}): give a folder of `saccade train cache`") from broken


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
