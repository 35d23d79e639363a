"""Labelled clips in each layout, and every leak between the splits refused."""

import re
from pathlib import Path

import pytest

from saccade_ros.recordings.labelled import (
    TEST,
    TRAIN,
    LabelledOptions,
    count_labels,
    describe_labelled,
    of_split,
    read_labelled,
)
from saccade_ros.recordings.source import SourceError
from saccade_ros.storage import write_file, write_json


def touch(file: Path) -> None:
    """A file of its own content."""
    write_file(file, str(file))


@pytest.fixture
def folder(tmp_path):
    for name in ("train/left/a.mp4", "train/right/b.mp4", "test/left/c.mp4", "test/right/d.mp4"):
        touch(tmp_path / name)
    touch(tmp_path / "train" / "left" / ".hidden")
    return tmp_path


TRAINED = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi 1"]
TRAINED += ["HandstandPushups/v_HandStandPushups_g08_c01.avi 2"]  # as it is spelt there
TESTED = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "HandstandPushups/v_HandStandPushups_g01_c04.avi"]


def ucf101(root: Path, trained=TRAINED, tested=TESTED) -> LabelledOptions:
    lists = root / "ucfTrainTestlist"
    write_file(lists / "classInd.txt", "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    write_file(lists / "trainlist01.txt", "\n".join(trained) + "\n")
    write_file(lists / "testlist01.txt", "\n".join(tested) + "\n")
    for line in (*trained, *tested):
        touch(root / line.split()[0])
    return LabelledOptions(root, "ucf101", lists)


def ssv2(root: Path, **changes) -> LabelledOptions:
    lists = {
        "labels": {"Holding something": "0", "Putting something on something": "1"},
        "train": [
            {"id": "11", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]},
            {"id": "12", "label": "..", "template": "Putting [something] on [something]"},
        ],
        "validation": [{"id": "13", "label": "holding a pen", "template": "Holding [something]"}],
    }
    for name, value in {**lists, **changes}.items():
        write_json(root / "labels" / f"{name}.json", value)
    for number in (11, 12, 13):
        touch(root / f"{number}.webm")
    return LabelledOptions(root, "ssv2", root / "labels")


def test_folder_has_splits_and_labels_by_name(folder):
    clips = read_labelled(LabelledOptions(folder))
    assert [(clip.path.name, clip.label, clip.split) for clip in clips] == [
        ("a.mp4", "left", "train"),
        ("b.mp4", "right", "train"),
        ("c.mp4", "left", "test"),
        ("d.mp4", "right", "test"),
    ]
    assert count_labels(of_split(clips, TEST)) == {"left": 1, "right": 1}


def test_ucf101_has_groups_from_file_names(tmp_path):
    clips = read_labelled(ucf101(tmp_path))
    assert [clip.origin for clip in of_split(clips, TRAIN)] == ["ApplyEyeMakeup/08"] * 2 + ["HandstandPushups/08"]
    assert [(clip.path.name, clip.label) for clip in of_split(clips, TEST)] == [
        ("v_ApplyEyeMakeup_g01_c01.avi", "ApplyEyeMakeup"),
        ("v_HandStandPushups_g01_c04.avi", "HandstandPushups"),
    ]


def test_ssv2_takes_the_template_without_brackets_as_label(tmp_path):
    clips = read_labelled(ssv2(tmp_path))
    assert [(clip.path.name, clip.label, clip.split) for clip in clips] == [
        ("11.webm", "Holding something", "train"),
        ("12.webm", "Putting something on something", "train"),
        ("13.webm", "Holding something", "test"),
    ]


def test_record_tells_one_list_of_clips_from_another(folder):
    options = LabelledOptions(folder)
    before = describe_labelled(options, read_labelled(options))
    assert (before["train"], before["test"], before["labels"], before["fold"]) == (2, 2, ["left", "right"], None)
    touch(folder / "test" / "left" / "e.mp4")
    assert describe_labelled(options, read_labelled(options))["list_sha256"] != before["list_sha256"]


def refusal(options: LabelledOptions) -> str:
    with pytest.raises(SourceError) as refused:
        read_labelled(options)
    return str(refused.value)


def test_the_same_content_in_both_splits_is_refused(folder):
    write_file(folder / "test" / "right" / "copy.mp4", (folder / "train" / "right" / "b.mp4").read_bytes())
    said = refusal(LabelledOptions(folder))
    assert re.search(r"copy.mp4 of the test split has the same content as .*b.mp4 of the train split", said)


def test_a_link_to_a_clip_of_the_other_split_is_refused(folder):
    (folder / "test" / "right" / "link.mp4").symlink_to(folder / "train" / "right" / "b.mp4")
    assert "has the same path as" in refusal(LabelledOptions(folder))


def test_a_bag_that_is_in_both_splits_is_refused(folder):
    for split in ("train", "test"):
        write_file(folder / split / "left" / split / "metadata.yaml", "a bag")
    assert "has the same content as" in refusal(LabelledOptions(folder))


def test_the_same_path_or_group_of_ucf101_in_both_lists_is_refused(tmp_path):
    assert "has the same path as" in refusal(ucf101(tmp_path / "path", tested=[TRAINED[0].split()[0], *TESTED]))
    leaked = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c07.avi"
    assert "has the same group as" in refusal(ucf101(tmp_path / "group", tested=[*TESTED, leaked]))


def test_the_same_clip_of_ssv2_in_both_lists_is_refused(tmp_path):
    assert "has the same path as" in refusal(
        ssv2(tmp_path, validation=[{"id": "11", "template": "Holding [something]"}])
    )


def test_a_label_that_only_the_test_split_has_is_refused(folder):
    touch(folder / "test" / "up" / "e.mp4")
    assert "label 'up' of the test split has no clip in the train split" in refusal(LabelledOptions(folder))


def test_missing_videos_are_counted_and_the_first_is_named(tmp_path):
    options = ucf101(tmp_path)
    for line in TESTED:
        (tmp_path / line).unlink()
    assert re.search(r"v_ApplyEyeMakeup_g01_c01.avi and 1 more of 5 clips do not exist", refusal(options))


def test_a_folder_without_splits_is_refused_with_the_layout(tmp_path):
    assert "give a folder with train/LABEL/CLIP and test/LABEL/CLIP" in refusal(LabelledOptions(tmp_path))
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    assert "0 clips to train on and 0 to test on" in refusal(LabelledOptions(tmp_path))


@pytest.mark.parametrize(
    "line", ["ApplyEyeMakeup/clip.avi 1", "Knitting/v_Knitting_g08_c01.avi 3", TRAINED[0][:-1] + "2"]
)
def test_a_line_that_is_none_of_ucf101_is_refused(tmp_path, line):
    assert f"{line!r} is no line of UCF-101" in refusal(ucf101(tmp_path, trained=[line, *TRAINED]))


def test_broken_lists_are_refused_by_name(tmp_path):
    assert "classInd.txt cannot be read" in refusal(LabelledOptions(tmp_path, "ucf101"))
    unknown = [{"id": "11", "template": "Eating [something]"}]
    assert "'Eating something' of clip 11 is not in labels.json" in refusal(ssv2(tmp_path, train=unknown))
    assert "has no id and template" in refusal(ssv2(tmp_path, train=[{"id": "11"}]))
    assert "train.json holds no list" in refusal(ssv2(tmp_path, train={"id": "11"}))
    options = ssv2(tmp_path)
    write_file(tmp_path / "labels" / "train.json", "[")
    assert "train.json is no JSON" in refusal(options)
