"""Labelled clips in two splits that have nothing in common: a folder of one's own, UCF-101, Something-Something v2.

Every reader checks its data before a probe sees it (`check_splits`), as a clip that stands in both splits makes any
encoder look good.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade_ros.knobs import Settings, knob, required
from saccade_ros.recordings.source import SourceError
from saccade_ros.storage import sha256_of

TRAIN, TEST = "train", "test"
_FOLDER_REMEDY = "give a folder with train/LABEL/CLIP and test/LABEL/CLIP"


@dataclass(frozen=True)
class LabelledClip:
    """Clip with what it shows.

    Attributes:
        split: train or test.
        group: recording that it was cut from, within its label; clips of a group are alike. Empty if not known.
    """

    path: Path
    label: str
    split: str
    group: str = ""

    @property
    def origin(self) -> str:
        """Recording that it comes from: label and group, or the clip alone where these are not known."""
        return f"{self.label}/{self.group}" if self.group else str(self.path)


@dataclass(frozen=True)
class LabelledOptions(Settings):
    """Labelled clips, and the layout that they come in."""

    root: Path = required(
        "Folder of the labelled clips: with train/LABEL/CLIP and test/LABEL/CLIP; of UCF-101 with CLASS/v_*.avi; of "
        "Something-Something v2 with ID.webm.",
        metavar="FOLDER",
        positional=True,
    )
    layout: str = knob(
        "folder",
        "Layout of the clips and their splits: 'folder' has the splits as folders, 'ucf101' and 'ssv2' the split files "
        "of UCF-101 and Something-Something v2.",
        choices=("folder", "ucf101", "ssv2"),
    )
    splits: Path | None = knob(
        None,
        "Folder of the split files: classInd.txt, trainlist01.txt and testlist01.txt of UCF-101; labels.json, "
        "train.json and validation.json of Something-Something v2. None: the folder of the clips.",
        metavar="FOLDER",
    )
    fold: int = knob(1, "UCF-101: the split to take, of three.", at_least=1, at_most=3)


def read_labelled(options: LabelledOptions) -> tuple[LabelledClip, ...]:
    """Read the clips of both splits, and check that the test split is held out.

    Raises:
        SourceError: a split or a video is missing, or the two splits have something in common.
    """
    lists = options.splits or options.root
    readers: dict[str, Callable[[], Iterable[LabelledClip]]] = {
        "folder": lambda: read_folder(options.root),
        "ucf101": lambda: read_ucf101(options.root, lists, options.fold),
        "ssv2": lambda: read_ssv2(options.root, lists),
    }
    clips = tuple(readers[options.layout]())
    check_splits(clips)
    return clips


def of_split(clips: Iterable[LabelledClip], split: str) -> list[LabelledClip]:
    """Choose the clips of one split."""
    return [clip for clip in clips if clip.split == split]


def read_folder(root: Path) -> Iterator[LabelledClip]:
    """Read ROOT/{train,test}/LABEL/CLIP, where a clip is a video file or a bag.

    Raises:
        SourceError: there is no such split or label.
    """
    for split in (TRAIN, TEST):
        for label in _below(root / split):
            for path in _below(label):
                yield LabelledClip(path, label.name, split)


def _below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise SourceError(f"{folder} is no folder: {_FOLDER_REMEDY}")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def read_ucf101(root: Path, lists: Path, fold: int = 1) -> Iterator[LabelledClip]:
    """Read one of the three splits of UCF-101 (Soomro, Zamir and Shah 2012), whose groups are recordings.

    Args:
        root: folder of CLASS/v_CLASS_gGG_cCC.avi.
        lists: folder of classInd.txt ("1 ApplyEyeMakeup"), and of trainlist01.txt ("CLASS/FILE 1") and testlist01.txt
            ("CLASS/FILE"), for fold 1.

    Raises:
        SourceError: a list is missing, or a line of it is not of this form.
    """
    classes = {name: number for number, _, name in (line.partition(" ") for line in _lines(lists / "classInd.txt"))}
    for split in (TRAIN, TEST):
        file = lists / f"{split}list{fold:02}.txt"
        for line in _lines(file):
            found = re.fullmatch(r"(\w+)/\w+_g(\d+)_c\d+\.avi(?: (\d+))?", line)
            if found is None or classes.get(found[1]) not in ({found[3]} if found[3] else set(classes.values())):
                raise SourceError(
                    f"{file}: {line!r} is no line of UCF-101 with a class of classInd.txt: give its split files as "
                    "they were downloaded"
                )
            yield LabelledClip(root / line.split()[0], found[1], split, found[2])


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in _text(file).splitlines() if line.strip()]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as broken:
        raise SourceError(f"{file} cannot be read ({broken}): give --splits the folder of the split files") from broken


def read_ssv2(root: Path, lists: Path) -> Iterator[LabelledClip]:
    """Read Something-Something v2 (Goyal et al. 2017).

    Its validation split is taken as the test split, as the labels of its own test split are not public.

    Args:
        root: folder of ID.webm.
        lists: folder of labels.json ({"Holding something": "0"}), train.json and validation.json ([{"id": "1",
            "template": "Holding [something]"}]).

    Raises:
        SourceError: a list is missing or not of this form, or a template is not in labels.json.
    """
    known = _json(lists / "labels.json", dict)
    for split, name in ((TRAIN, "train.json"), (TEST, "validation.json")):
        for entry in _json(lists / name, list):
            number, label = _ssv2_entry(lists / name, entry)
            if label not in known:
                raise SourceError(
                    f"{lists / name}: {label!r} of clip {number} is not in labels.json: give both of one release"
                )
            yield LabelledClip(root / f"{number}.webm", label, split)


def _ssv2_entry(file: Path, entry: Mapping[str, Any]) -> tuple[str, str]:
    """Number of a clip, and its template without brackets."""
    try:
        return str(entry["id"]), str(entry["template"]).replace("[", "").replace("]", "")
    except (KeyError, TypeError) as missing:
        raise SourceError(f"{file}: {entry!r} has no id and template: give the file as it was downloaded") from missing


def _json(file: Path, kind: type) -> Any:
    try:
        document = json.loads(_text(file))
    except ValueError as broken:
        if isinstance(broken, SourceError):
            raise
        raise SourceError(f"{file} is no JSON ({broken}): give the file as it was downloaded") from broken
    if not isinstance(document, kind):
        raise SourceError(f"{file} holds no {kind.__name__}: give the file as it was downloaded")
    return document


def check_splits(clips: Sequence[LabelledClip]) -> None:
    """Check that the splits are there and have no path, group or content in common, and that no test label is new.

    Raises:
        SourceError: one of these is wrong; names the first clip.
    """
    train, test = of_split(clips, TRAIN), of_split(clips, TEST)
    if not train or not test:
        raise SourceError(f"{len(train)} clips to train on and {len(test)} to test on: give some of each")
    missing = [clip.path for clip in clips if not clip.path.exists()]
    if missing:
        raise SourceError(
            f"{missing[0]} and {len(missing) - 1} more of {len(clips)} clips do not exist: copy them there"
        )
    unknown = sorted({clip.label for clip in test} - {clip.label for clip in train})
    if unknown:
        raise SourceError(
            f"label {unknown[0]!r} of the test split has no clip in the train split: add some, or leave it out"
        )
    _check_shared(train, test, "path", lambda clip: str(clip.path.resolve()))
    _check_shared(train, test, "group", lambda clip: clip.origin)
    _check_shared(train, test, "content", lambda clip: sha256_of(clip.path))


def _check_shared(
    train: Sequence[LabelledClip], test: Sequence[LabelledClip], what: str, key: Callable[[LabelledClip], str]
) -> None:
    trained = {key(clip): clip for clip in train}
    shared = [(clip, trained[found]) for clip in test if (found := key(clip)) in trained]
    if shared:
        tested, known = shared[0]
        raise SourceError(
            f"{tested.path} of the test split has the same {what} as {known.path} of the train split, and "
            f"{len(shared) - 1} more are like that: the test split must be held out; take these from one of the two"
        )


def describe_labelled(options: LabelledOptions, clips: Sequence[LabelledClip]) -> dict[str, Any]:
    """Describe labelled clips for a record: layout, size of the splits, labels, and a digest of which clip is what."""
    listed = sorted(f"{clip.split} {clip.label} {clip.path.name}" for clip in clips)
    return {
        "folder": options.root.name,
        "layout": options.layout,
        "fold": options.fold if options.layout == "ucf101" else None,
        "train": len(of_split(clips, TRAIN)),
        "test": len(of_split(clips, TEST)),
        "labels": list(count_labels(clips)),
        "list_sha256": hashlib.sha256("\n".join(listed).encode()).hexdigest(),
    }


def count_labels(clips: Iterable[LabelledClip]) -> dict[str, int]:
    """Count the clips of each label, in the order of the labels' names."""
    return dict(sorted(Counter(clip.label for clip in clips).items()))
