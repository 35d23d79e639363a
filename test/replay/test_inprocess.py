"""Replay in this process: an empty one is refused with its cause, and thumbnails are chosen evenly."""

from dataclasses import replace

import numpy as np
import pytest
from clips import write_video
from recorded import record_stamped
from scenes import tiny_config
from test_report import recording, row

from saccade_ros.cli import main
from saccade_ros.config import StreamConfig, VisionConfig
from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import IMAGE, RecordedImage
from saccade_ros.replay.inprocess import MAX_THUMBNAILS, replay, thumbnails
from saccade_ros.verdict import EmptyResultError

VISION = VisionConfig(max_megapixels=0.01)
S = 10**9


EMPTY = {
    "stamps all 0": ([0] * 10, {}, "9 of 10 images are stamped no later"),
    "one image": ([S], {}, "1 image came"),
    "gaps": ([5 * S * i for i in range(10)], {}, "raise stream.max_gap_s"),
    "depth": ([S * i // 10 for i in range(10)], {"encoding": lambda place: "16UC1"}, "16UC1 is a depth image"),
    "two cameras": ([S * i // 10 for i in range(10)], {"frame_id": lambda place: "lr"[place % 2]}, "topic of its own"),
    "an hour apart": ([(i % 2) * 3600 * S + i * S // 10 for i in range(10)], {}, "all machines one clock"),
    "too fast": ([S + i for i in range(10)], {}, "within one period of stream.fps"),
}


@pytest.mark.parametrize(("stamps_ns", "fields", "why"), EMPTY.values(), ids=EMPTY)
def test_empty_result_is_refused_with_its_cause(stamps_ns, fields, why, tmp_path):
    config = tiny_config(stream=StreamConfig(fps=4.0))
    bag = record_stamped(tmp_path / "bag", stamps_ns, **fields)
    with open_source(bag) as source, pytest.raises(EmptyResultError, match=why) as refused:
        replay(source, config, lambda *_: None, "bag")
    assert str(refused.value).startswith("nothing came of bag: ")


@pytest.mark.parametrize("command", ["replay", "calibrate"])
def test_empty_result_is_never_exit_status_0(command, tmp_path, capsys):
    bag = record_stamped(tmp_path / "bag", [0] * 10)
    settings = ["--set", "encoder.model=tiny", "--out", str(tmp_path / "out.yaml")]
    assert main([command, str(bag), *settings]) == 1
    assert "saccade: nothing came of bag: 9 of 10 images are stamped no later" in capsys.readouterr().err
    assert not (tmp_path / "out.yaml").exists()


def test_remark_says_what_a_replay_lost(tmp_path):
    every = tiny_config(stream=StreamConfig(fps=0.0))
    stamps_ns = [5 * S * (i // 4) + i * S // 10 for i in range(40)]  # four images, and a gap
    with open_source(record_stamped(tmp_path / "bag", stamps_ns)) as source:
        made = replay(source, every, lambda *_: None)
    assert len(made.rows) == 20
    assert "9 times in 40 images, by gaps" in made.summary()["remark"]


def replayed(path) -> tuple[str, dict[int, bytes]]:
    """Everything that a replay says but for the times that it took, and its embeddings."""
    with open_source(path) as source:
        made = replay(source, tiny_config(stream=StreamConfig(fps=0.0)), lambda *_: None)
    untimed = [replace(row, queue_ms=0, decode_ms=0, gate_ms=0, encode_ms=0, total_ms=0) for row in made.rows]
    assert len({row.encoded for row in untimed}) == 2, "some are encoded, and some reused"
    vectors = {moment.stamp_ns: vector.tobytes() for moment, vector in made.moments._vectors.items()}
    return repr((untimed, made.totals, made.gate)), vectors


def test_the_same_recording_gives_the_same_bytes(tmp_path):
    video = write_video(tmp_path / "clip.mp4", frames=24, hold=8)
    assert replayed(video) == replayed(video)


def recorded(stamp_ns: int) -> RecordedImage:
    return RecordedImage(stamp_ns, stamp_ns, "camera", np.zeros((4, 6, 3), np.uint8), None, IMAGE)


def test_malformed_image_with_the_stamp_of_an_encoded_one_is_passed_over():
    encoded = row(0)
    good = recorded(encoded.stamp_ns)
    malformed = replace(good, image=np.zeros((4, 6, 3), np.float32))
    pictures = thumbnails([good, malformed], encoded.stream, recording([encoded]), VISION)
    assert list(pictures) == [encoded.moment]
    assert not thumbnails([good], "/other", recording([encoded]), VISION), "another camera with the same stamp"


def test_many_encoded_moments_are_thinned_evenly_from_first_to_last():
    rows = [row(i) for i in range(10 * MAX_THUMBNAILS)]
    pictures = thumbnails([recorded(r.stamp_ns) for r in rows], rows[0].stream, recording(rows), VISION)
    kept = sorted(moment.stamp_ns for moment in pictures)
    assert len(kept) == MAX_THUMBNAILS
    assert (kept[0], kept[-1]) == (rows[0].stamp_ns, rows[-1].stamp_ns)
    assert np.ptp(np.diff(kept)) <= 80_000_000  # one tubelet


def test_nothing_encoded_has_no_thumbnails():
    assert thumbnails([recorded(10**9)], "/camera", recording([row(0, encoded=False)]), VISION) == {}
