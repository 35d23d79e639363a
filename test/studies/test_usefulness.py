"""The usefulness table: its measures by hand, and the command from clips to picture."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_teacher
from clips import write_pan
from scenes import textured, tiny_config
from tiny_teacher import write_teacher

from saccade_ros.backends import load_backend
from saccade_ros.cli import main
from saccade_ros.config import EncoderConfig
from saccade_ros.recordings.clip import Clip, read_clip
from saccade_ros.recordings.source import SourceError
from saccade_ros.storage import sha256_of
from saccade_ros.studies.columns import ENCODER, PIXELS, TEACHER, UNTRAINED, EmbeddedClip, make_columns
from saccade_ros.studies.jitter import jitter
from saccade_ros.studies.moments import Moments, nearest_other_moment, nearest_place, right_moment, same_clip_auc
from saccade_ros.studies.usefulness import places_of
from saccade_ros.train.teachers import load_teacher

TINY = ["--set", "encoder.model=tiny", "--set", "encoder.window=2", "--set", "backend.threads=1"]


def clip(name: str, vectors: list[list[float]], period_s: float = 1.0, jittered=None) -> EmbeddedClip:
    stamps_s = period_s * np.arange(len(vectors))
    changed = {} if jittered is None else {"x": np.array(jittered, np.float32)}
    return EmbeddedClip(name, stamps_s, {"x": np.array(vectors, np.float32)}, changed)


def moments(*clips: EmbeddedClip) -> Moments:
    return Moments.of(clips, "x")


RIGHT, LEFT, UP, DOWN = [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]


def test_clips_that_keep_their_direction_are_told_apart():
    measured = same_clip_auc(moments(clip("a", [RIGHT] * 3), clip("b", [LEFT] * 4)))
    assert (measured.value, measured.chance) == (1.0, 0.5)
    assert measured.parts == {"a": 1.0, "b": 1.0}


def test_auc_counts_each_clip_alike_and_only_pairs_two_seconds_apart():
    a = clip("a", [RIGHT, UP, RIGHT])
    b = clip("b", [RIGHT, LEFT], period_s=2.0)
    c = clip("c", [LEFT, LEFT, LEFT])
    measured = same_clip_auc(moments(a, b, c))
    found = moments(a, b, c)
    cosines = found.compare(found.vectors)
    positives = [cosines[0, 2], cosines[3, 4], cosines[5, 7]]
    others = [cosines[:3, 3:5].ravel(), cosines[:3, 5:].ravel(), cosines[3:5, 5:].ravel()]
    wins = [np.mean([(p > n).mean() + 0.5 * (p == n).mean() for n in others]) for p in positives]
    assert measured.value == pytest.approx(np.mean(wins))


def test_nearest_neighbour_skips_the_tubelets_close_in_time():
    """At every moment a shows something else, so that its neighbours would be right and its far moments are not."""
    turning = [[np.cos(angle), np.sin(angle)] for angle in np.linspace(0, 2 * np.pi, 9)]
    a, b = clip("a", turning, period_s=0.25), clip("b", turning, period_s=0.25)
    assert nearest_other_moment(moments(a, b)).value == 0.0
    still = moments(clip("a", [RIGHT] * 3), clip("b", [LEFT] * 3))
    assert nearest_other_moment(still).value == 1.0
    assert nearest_other_moment(still).chance == pytest.approx(1 / 4)


def test_a_short_clip_is_left_out_by_name_and_none_long_enough_is_refused():
    a, b, c = clip("a", [RIGHT] * 3), clip("b", [LEFT] * 3), clip("c", [UP] * 2)
    for measure in (same_clip_auc, nearest_other_moment):
        measured = measure(moments(a, b, c))
        assert measured.left_out == ("c",)
        assert set(measured.parts) == {"a", "b"}
        with pytest.raises(SourceError, match="no clip has two tubelets 2 s apart"):
            measure(moments(c, clip("d", [DOWN])))


def test_a_place_that_several_clips_show_is_found_in_the_others():
    a, b, c = clip("a", [RIGHT] * 3), clip("b", [RIGHT] * 3), clip("c", [LEFT] * 3)
    measured = nearest_place(moments(a, b, c), ["hall", "hall", "yard"])
    assert measured.parts == {"a": 1.0, "b": 1.0, "c": 1.0}
    swapped = nearest_place(moments(a, b, c), ["hall", "yard", "hall"])  # a looks like b, and c like nothing
    assert swapped.parts["a"] == 0.0


def test_places_are_folders_that_clips_share():
    paths = [Path(name) for name in ("x/1/a.mp4", "x/1/b.mp4", "x/2/c.mp4")]
    first, second, third = places_of(paths)
    assert first == second != third
    assert third.endswith("c.mp4")
    assert len(set(places_of(paths[:2]))) == 2, "all in one folder: each is a place of its own"


def test_right_moment_is_the_same_clip_within_half_a_second():
    seen, other = [RIGHT, UP, LEFT, DOWN], [[0.7, 0.7]] * 2
    same = clip("a", seen, jittered=seen), clip("b", other, jittered=other)
    assert right_moment(moments(*same)).parts == {"a": 1.0, "b": 0.0}, "of two equal moments one is a second away"
    late = clip("a", seen, jittered=[UP, LEFT, DOWN, RIGHT]), clip("b", other, jittered=other)
    assert right_moment(moments(*late)).parts["a"] == 0.0
    close = clip("a", seen, period_s=0.5, jittered=[UP, UP, DOWN, DOWN]), clip("b", other, jittered=other)
    assert right_moment(moments(*close)).parts["a"] == 1.0


def test_jitter_changes_light_and_noise_the_same_way_every_time():
    pictures = np.stack([[textured(64, 64), textured(64, 64)]] * 3)
    seen = Clip(pictures, np.arange(3))
    once, again, other = jitter(seen, 0), jitter(seen, 0), jitter(seen, 1)
    assert np.array_equal(once.pictures, again.pictures)
    assert not np.array_equal(once.pictures, other.pictures)
    assert once.pictures.dtype == np.uint8
    assert np.abs(once.pictures.astype(int) - pictures).mean() > 4
    flat = [np.corrcoef(one.pictures[0].ravel(), pictures[0].ravel())[0, 1] for one in (once, other)]
    assert min(flat) > 0.9, "the picture is still there"


def test_columns_are_made_of_the_same_clip(tmp_path):
    config = tiny_config()
    backend = load_backend(config.encoder, config.backend)
    seen = read_clip(write_pan(tmp_path / "a.mp4", place=0, frames=6), config, backend.info.input_size)
    teacher = load_teacher(str(write_teacher(tmp_path / "tiny.onnx")), tubelets=1)
    columns = make_columns(config, backend, teacher=teacher)
    vectors = {name: embed(seen) for name, embed in columns.items()}
    assert list(vectors) == [PIXELS, UNTRAINED, TEACHER, ENCODER]
    assert {name: one.shape for name, one in vectors.items()} == {
        PIXELS: (3, 768),
        UNTRAINED: (3, 192),
        TEACHER: (3, 12),
        ENCODER: (3, 192),
    }
    newer = [cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA) for picture in seen.pictures[:, 1]]
    expected = np.array([tiny_teacher.features(picture).mean(axis=(0, 1)) for picture in newer])
    assert vectors[TEACHER] == pytest.approx(expected, abs=1e-5)
    assert vectors[PIXELS][0].reshape(16, 16, 3)[0, 0] == pytest.approx(
        seen.pictures[0, :, :8, :8].mean(axis=(0, 1, 2)), rel=1e-4
    )
    assert not np.allclose(vectors[UNTRAINED], vectors[ENCODER], atol=0.1), "other random weights"


def test_an_export_has_the_columns_of_the_model_it_was_made_of(exported, tmp_path):
    video = write_pan(tmp_path / "a.mp4", place=0, frames=6)
    found = []
    for model in ("tiny", exported):
        config = tiny_config(encoder=EncoderConfig(model=model, window=2))
        backend = load_backend(config.encoder, config.backend)
        seen = read_clip(video, config, backend.info.input_size)
        found.append({name: embed(seen) for name, embed in make_columns(config, backend).items()})
    ours, theirs = found
    assert list(ours) == list(theirs)
    assert all(ours[name] == pytest.approx(theirs[name], abs=1e-4) for name in ours)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Pans over five places, two maps in folders of two clips, and two directions of motion."""
    root = tmp_path_factory.mktemp("world")
    for place in range(3):
        write_pan(root / f"place{place}.mp4", place)
    for n, name in enumerate(("m0/a", "m0/b", "m1/a", "m1/b")):
        write_pan(root / f"{name}.mp4", place=10 + n // 2, start=8 * (n % 2))
    for n, split in enumerate(("train", "train", "test")):
        for label, step in (("right", (0, 6)), ("down", (6, 0))):
            write_pan(root / "motion" / split / label / f"{n}.mp4", place=20 + n, step=step, frames=8)
    return root


def test_command_makes_the_table_the_record_and_the_picture(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    clips = [str(world / f"place{n}.mp4") for n in range(3)]
    maps = [str(file) for file in sorted(world.glob("m?/*.mp4"))]
    file = tmp_path / "usefulness.json"
    command = ["evaluate", "usefulness", *clips, "--doom", *maps, "--motion", str(world / "motion")]
    assert main([*command, *TINY, "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    rows = {row["name"]: row["columns"] for row in record["measures"]}
    assert list(rows) == ["auc", "nearest", "jitter", "doom", "motion"]
    assert {tuple(columns) for columns in rows.values()} == {(PIXELS, UNTRAINED, ENCODER)}
    assert all(0 <= one["value"] <= 1 for columns in rows.values() for one in columns.values())
    assert set(rows["auc"][ENCODER]["parts"]) == {"place0.mp4", "place1.mp4", "place2.mp4"}
    assert set(rows["doom"][ENCODER]["parts"]) == {"m0/a.mp4", "m0/b.mp4", "m1/a.mp4", "m1/b.mp4"}
    assert set(rows["motion"][ENCODER]["parts"]) == {"right", "down"}
    assert rows["motion"][ENCODER]["chance"] == 0.5
    assert rows["auc"][PIXELS]["value"] > 0.8, "textures of different seeds are easy"
    assert [clip["tubelets"] for clip in record["clips"]["clips"]] == [12, 12, 12]
    assert len({clip["sha256"] for clip in record["clips"]["clips"]}) == 3
    assert [said.partition(":")[0] for said in record["warnings"]] == [
        "3 clips are too few to tell encoders apart",
        "the encoder's weights are random",
    ]
    assert file.with_suffix(".png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    for words in ("held-out measure", "pixels 16x16", "untrained", "unseen Doom map", "too few"):
        assert words in printed


@pytest.mark.parametrize(
    ("clips", "said"),
    [
        (["place0.mp4"], "is the only clip of its set"),
        (["place0.mp4", "place1.mp4", "place0.mp4"], "are the same clip"),
        (["place0.mp4", "absent.mp4"], "absent.mp4 does not exist"),
    ],
)
def test_clips_that_say_nothing_are_refused(world, clips, said, capsys):
    assert main(["evaluate", "usefulness", *(str(world / clip) for clip in clips), *TINY]) == 1
    assert said in capsys.readouterr().err


def test_teacher_is_a_column_of_its_own(world, tmp_path):
    clips = [str(world / f"place{n}.mp4") for n in range(3)]
    teacher, file = write_teacher(tmp_path / "tiny.onnx"), tmp_path / "usefulness.json"
    command = ["evaluate", "usefulness", *clips, "--teacher", str(teacher), "--tubelets", "10"]
    assert main([*command, *TINY, "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert record["teacher"] == {"name": "tiny", "sha256": sha256_of(teacher)}
    assert {tuple(row["columns"]) for row in record["measures"]} == {(PIXELS, UNTRAINED, TEACHER, ENCODER)}
    assert file.with_suffix(".png").stat().st_size > 10_000


def test_teacher_may_be_a_checkpoint_which_sees_each_tubelet_alone(world, tmp_path):
    config = tiny_config()
    backend = load_backend(config.encoder, config.backend)
    seen = read_clip(world / "place0.mp4", config, backend.info.input_size, at_most=3)
    teacher = load_teacher("tiny", tubelets=1)
    vectors = make_columns(config, backend, controls=False, teacher=teacher)[TEACHER](seen)
    assert vectors.shape == (3, 192)
    streamed = make_columns(config, backend, controls=False)[ENCODER](seen)
    assert vectors[0] == pytest.approx(streamed[0], abs=1e-4), "the first tubelet of a stream is alone, too"


def test_teacher_that_cannot_be_loaded_is_refused(world, tmp_path, capsys):
    clips = [str(world / f"place{n}.mp4") for n in range(2)]
    command = ["evaluate", "usefulness", *clips, "--teacher", str(tmp_path / "absent.onnx"), *TINY]
    assert main(command) == 1
    assert "absent.json cannot be read" in capsys.readouterr().err
