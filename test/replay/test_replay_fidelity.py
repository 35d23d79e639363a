"""Fidelity of a replay: a sample beside always encoding, found again whatever was dropped or repeated."""

import numpy as np
import pytest
from scenes import PERIOD_NS, frames_of, textured, tiny_config

from saccade_ros.config import GateConfig
from saccade_ros.frames import Frame
from saccade_ros.measure.metrics import centred_cosine
from saccade_ros.pipeline import Pipeline
from saccade_ros.recordings.source import IMAGE, RecordedImage, Source
from saccade_ros.replay.fidelity import MAX_RUNS, RUN, Sample, measure_fidelity

GATED = GateConfig(policy="pixels", tau=0.05)
PICTURES = [textured(64, 64, seed=i // 8) for i in range(60)]  # a cut every fourth tubelet


class Camera(Source):
    """Pictures as a recording."""

    topic, msgtype, count, duration_s = "/camera", IMAGE, None, None

    def __iter__(self):
        for frame in frames_of(PICTURES):
            yield RecordedImage(frame.stamp_ns, frame.stamp_ns, frame.frame_id, frame.image, None, IMAGE)


def published(pipeline: Pipeline, frames: list[Frame]) -> dict[int, np.ndarray]:
    return {t.stamp_ns: np.array(r.vector) for t, r in pipeline.open_stream().run(frames)}


def sampled(vectors: dict[int, np.ndarray]) -> Sample:
    sample = Sample()
    for stamp_ns, vector in vectors.items():
        sample.add("/camera", stamp_ns, vector)
    return sample


def test_always_encoding_is_as_good_as_itself():
    pipeline = Pipeline(tiny_config(gate=GateConfig(enabled=False)))
    found = measure_fidelity(sampled(published(pipeline, list(frames_of(PICTURES)))), [Camera()], pipeline)
    assert (found.mean, found.worst, found.samples, found.missing) == (1.0, 1.0, 30, "")


def test_cost_of_the_gate_is_that_of_the_whole_stream_encoded_again():
    gated = Pipeline(tiny_config(gate=GATED))
    always = published(Pipeline(tiny_config(gate=GateConfig(enabled=False)), gated.backend), list(frames_of(PICTURES)))
    ours = published(gated, list(frames_of(PICTURES)))
    found = measure_fidelity(sampled(ours), [Camera()], gated)
    cosines = centred_cosine(np.stack(list(ours.values())), np.stack(list(always.values())))
    assert cosines.min() < 0.99, "something was lost"
    assert (found.mean, found.worst) == pytest.approx((cosines.mean(), cosines.min()), abs=1e-6)


def test_tubelets_that_were_dropped_are_passed_over():
    gated = Pipeline(tiny_config(gate=GATED))
    ours = published(gated, list(frames_of(PICTURES)))
    kept = dict(list(ours.items())[::2])
    assert measure_fidelity(sampled(kept), [Camera()], gated).samples == len(kept)


def test_later_passes_are_found_by_their_own_stamps():
    pipeline = Pipeline(tiny_config(gate=GateConfig(enabled=False)))
    thrice = published(pipeline, list(frames_of(PICTURES * 3)))
    found = measure_fidelity(sampled(thrice), [Camera()], pipeline, len(PICTURES) * PERIOD_NS)
    assert (found.mean, found.worst) == (pytest.approx(1.0), pytest.approx(1.0, abs=1e-3))
    assert found.samples > 30, "more than one pass has"


def test_strange_stamps_and_few_embeddings_have_no_figure_but_a_reason():
    pipeline = Pipeline(tiny_config())
    strange = measure_fidelity(sampled({5: np.ones(192)}), [Camera()], pipeline)
    assert (strange.mean, strange.samples) == (None, 0)
    assert "by its stamp" in strange.missing
    few = dict(list(published(pipeline, list(frames_of(PICTURES))).items())[:3])
    assert "3 embeddings are too few" in measure_fidelity(sampled(few), [Camera()], pipeline).missing


def test_long_recording_is_sampled_in_few_runs_spread_over_it():
    sample, count = Sample(), 100 * RUN
    for index in range(count):
        sample.add("/camera", index, np.zeros(2))
    stamps = np.array(sorted(sample.of("/camera")))
    runs = np.split(stamps, np.flatnonzero(np.diff(stamps) > 1) + 1)
    assert MAX_RUNS / 2 <= len(runs) <= MAX_RUNS
    assert {len(run) for run in runs} == {RUN}
    assert stamps[-1] > count / 2
    assert sample.of("/other") == {}
