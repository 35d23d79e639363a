"""The fault seam: what it arms fails as asked, what it does not arm never does."""

import errno
import time
from contextlib import suppress

import numpy as np
import pytest
from scenes import frames_of, textured, tiny_config

from saccade_ros.faults import Fault, arm_from_environment, injected, passing, read_faults, strike
from saccade_ros.intake import Intake
from saccade_ros.knobs import ConfigError
from saccade_ros.pipeline import Pipeline
from saccade_ros.storage import StorageError, write_file


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(tiny_config())


def test_every_third_time_fails_and_only_at_its_point_and_only_while_armed():
    with injected(Fault("step", "error", every=3)):
        outcomes = []
        for _ in range(7):
            strike("decode")
            try:
                strike("step")
                outcomes.append("well")
            except RuntimeError:
                outcomes.append("failed")
    strike("step")
    assert outcomes == ["well", "well", "failed"] * 2 + ["well"]


@pytest.mark.parametrize(
    ("kind", "raised"), [("error", RuntimeError), ("memory", MemoryError), ("exit", SystemExit), ("disk", OSError)]
)
def test_kinds_raise_what_they_say(kind, raised):
    with injected(Fault("publish", kind)), pytest.raises(raised) as caught:
        strike("publish")
    assert kind != "disk" or caught.value.errno == errno.ENOSPC


def test_hang_lasts_and_then_goes_on():
    started = time.monotonic()
    with injected(Fault("step", "hang", seconds=0.05)):
        assert passing("step", 7) == 7
    assert time.monotonic() - started >= 0.05


def test_text_of_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("SACCADE_FAULTS", "step:error:7, step:hang:100:2.5,output:nan , write:disk")
    monkeypatch.setattr("saccade_ros.faults._armed", [])
    read = [(f.point, f.kind, f.every, f.seconds) for f in arm_from_environment()]
    assert read == [
        ("step", "error", 7, 3600.0),
        ("step", "hang", 100, 2.5),
        ("output", "nan", 1, 3600.0),
        ("write", "disk", 1, 3600.0),
    ]


@pytest.mark.parametrize(
    "text",
    ["step", "stp:error", "step:errors", "step:error:0", "step:error:-1", "step:hang:1:0", "step:nan", "a:b:c:d:e"],
)
def test_no_fault_is_refused_with_its_text(text):
    with pytest.raises(ConfigError, match=text.split(":")[0]):
        read_faults(text)


# What the parts do when they fail


@pytest.mark.parametrize("kind", ["error", "memory", "exit"])
@pytest.mark.parametrize("point", ["step", "decode"])
def test_tubelet_that_fails_is_counted_whatever_it_raises_and_the_stream_goes_on(pipeline, point, kind):
    stream, published = pipeline.open_stream(), 0
    with injected(Fault(point, kind, every=5)):
        for frame in frames_of([textured(seed=i) for i in range(20)]):
            with suppress(RuntimeError, MemoryError, SystemExit):
                published += stream.push(frame) is not None
    accounts = stream.ledger.accounts()
    assert accounts.pending == 0
    assert accounts.dropped["encoder_error"] == 2 * (10 - published) > 0
    assert accounts.used == 2 * published > 0


def test_nan_of_a_backend_is_no_embedding_and_leaves_nothing_in_the_cache(pipeline):
    """The same as a stream that began after it: what made the NaN may be in the ring."""
    frames = list(frames_of([textured(seed=i) for i in range(12)]))
    stream, fresh = pipeline.open_stream(), pipeline.open_stream()
    with injected(Fault("output", "nan", every=3)):
        for frame in frames[:5]:
            stream.push(frame)
        with pytest.raises(ArithmeticError, match="NaN"):
            stream.push(frames[5])
    after = [stream.push(frame) for frame in frames[6:]]
    expected = [fresh.push(frame) for frame in frames[6:]]
    for got, wanted in zip(after[1::2], expected[1::2], strict=True):
        assert np.array_equal(got.vector, wanted.vector)
        assert got.window_fill == wanted.window_fill
    assert stream.ledger.dropped == {"encoder_error": 2}


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "report.json"
    write_file(target, "old")
    with injected(Fault("write", "disk")), pytest.raises(StorageError, match=r"No space left.*make room in"):
        write_file(target, "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.json", "old")]


def test_resets_at_any_rate_leave_the_stream_time_for_a_tubelet():
    """250 a second between the frames of a camera stopped all output; one is enough until a tubelet was taken."""
    intake, taken = Intake(tiny_config()), []
    for frame in frames_of([textured()] * 20):
        for _ in range(8):
            intake.restart()
        intake.offer(frame)
        intake.restart()
        if (tubelet := intake.take()) is not None:
            taken.append((tubelet.epoch, tubelet.index))
    assert taken == [(epoch, 0) for epoch in range(10)]
    assert intake.ledger.dropped == {}
    assert intake.ledger.resets == {"request": 9}, "it was fresh at first"
