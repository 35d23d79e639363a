"""A recording encoded in full: the stream without a gate, and what gates are judged by."""

import math

import numpy as np
import pytest
from drawn_trace import trace_of
from scenes import frames_of, textured, tiny_config

from saccade_ros.config import GateConfig, StreamConfig
from saccade_ros.pipeline import Pipeline
from saccade_ros.studies.trace import common_centre, record
from saccade_ros.vision.preprocess import tubelet_pixels

WINDOW = 1


def test_warm_up_is_the_window_of_each_epoch():
    trace = trace_of([0.0] * 8, epochs=[0, 0, 0, 0, 0, 1, 1, 1])
    assert trace.warm(1).tolist() == [True, True, False, False, False, True, True, False]


def test_centre_counts_each_recording_once_and_no_warm_up():
    short, long = trace_of([math.pi, math.pi, 0.0]), trace_of([0.0, 0.0] + [math.pi / 2] * 50)
    assert common_centre([short, long], WINDOW) == pytest.approx([0.5, 0.5], abs=1e-6)


def test_trace_is_the_ungated_stream_and_keeps_what_gates_are_judged_by():
    scene, cut = textured(), textured(seed=1)
    frames = list(frames_of([scene] * 8 + [cut] * 8))
    config = tiny_config(gate=GateConfig(tau=10.0))
    pipeline = Pipeline(config)
    trace = record("scene", frames, config, pipeline.backend, events_ns=(frames[8].stamp_ns,))
    ungated = Pipeline(tiny_config(gate=GateConfig(enabled=False)), pipeline.backend).open_stream()
    expected = [result.vector for _, result in ungated.run(frames)]
    assert np.array_equal(trace.vectors, np.stack(expected))
    assert trace.events == (4,)
    assert trace.stamps_ns.tolist() == [frame.stamp_ns for frame in frames[1::2]]
    pixels = tubelet_pixels(cut, cut, pipeline.backend.info.input_size, config.vision.fit)
    assert np.array_equal(trace.features[4], pipeline.backend.embed(pixels).features)
    assert trace.grey.shape == (8, 128, 128)


def test_progress_of_a_trace_is_the_fraction_of_its_frames():
    config, told = tiny_config(), []
    frames = list(frames_of([textured()] * 8))
    record("scene", frames, config, Pipeline(config).backend, progress=lambda _, done: told.append(done), count=8)
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_recording_without_a_tubelet_is_refused_with_the_rate():
    config = tiny_config(stream=StreamConfig(fps=0.5, max_gap_s=10.0))
    with pytest.raises(ValueError, match=r"nothing came of .* within one period of stream\.fps"):
        record("short", frames_of([textured()] * 4), config, Pipeline(config).backend)
