"""Steps of several streams as one: each gets what it gets alone, and the trouble of one is nobody else's."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from scenes import frames_of, textured, tiny_config

from saccade_ros.backends.base import StepRequest
from saccade_ros.backends.torch_backend import TorchBackend
from saccade_ros.config import BackendConfig, EncoderConfig, GateConfig, TokensConfig
from saccade_ros.encoder.model import NonFiniteError
from saccade_ros.faults import injected, read_faults
from saccade_ros.frames import Decoded, EmbeddingResult, Picture, Tubelet
from saccade_ros.pipeline import Pipeline, Stream
from saccade_ros.stepping import Work, run_together

S = 64
SETTINGS: dict[str, dict[str, object]] = {
    "gated": {"gate": GateConfig(tau=0.1)},
    "sparse": {"tokens": TokensConfig(select="changed")},
    "ratio": {"tokens": TokensConfig(select="ratio", ratio=0.2)},
    "recompute": {"encoder": EncoderConfig(model="tiny", window=3, recompute=2, pooling="window")},
    "merged": {"encoder": EncoderConfig(model="tiny", window=3, merge=4)},
    "areas": {
        "encoder": EncoderConfig(model="tiny", window=3, area_grid="2x2", area_layers=2),
        "tokens": TokensConfig(select="changed"),
    },
    "bf16": {"backend": BackendConfig(precision="bf16", threads=1), "tokens": TokensConfig(select="changed")},
    "int8": {"backend": BackendConfig(precision="int8", threads=1), "tokens": TokensConfig(select="changed")},
}


def pictures(camera: int, count: int = 24) -> list[Picture]:
    """What a camera sees: a still scene, a mover that comes earlier with each camera, and a cut."""
    drawn = []
    for i in range(count):
        scene = textured(seed=camera + 10 * (i >= 18 - camera))
        if i >= 8 - 2 * camera:
            x = 40 + 6 * i
            scene[100:140, x : x + 40] = (200, 40, 40)
        drawn.append(scene)
    return drawn


def decoded(stream: Stream, seen: list[Picture]) -> Iterator[Decoded]:
    for frame in frames_of(seen):
        if stream.offer(frame):
            found = stream.decode()
            assert found is not None
            yield found


class Cameras:
    """Streams of one pipeline, stepped together; the results of each, and what failed."""

    def __init__(self, pipeline: Pipeline, count: int = 3) -> None:
        self.streams = [pipeline.open_stream(f"/camera{i}") for i in range(count)]
        self.results: list[list[EmbeddingResult]] = [[] for _ in self.streams]
        self.failed: list[tuple[int, BaseException]] = []
        self.queues = [list(decoded(stream, pictures(i))) for i, stream in enumerate(self.streams)]

    def work(self, place: int, tubelet: Decoded) -> Work[None]:
        def emit(_: Tubelet, result: EmbeddingResult) -> None:
            self.results[place].append(result)

        try:
            yield from self.streams[place].embedding(tubelet, emit)
        except BaseException as failed:  # noqa: BLE001  # as the worker does
            self.failed.append((place, failed))

    def play(self, *ages: int) -> "Cameras":
        """Play all cameras' pictures; camera i has seen ages[i] tubelets when they begin to be stepped together."""
        for i, age in enumerate(ages):
            for tubelet in self.queues[i][:age]:
                run_together([self.work(i, tubelet)], self.streams[i].backend)
            del self.queues[i][:age]
        while any(self.queues):
            works = [self.work(i, queue.pop(0)) for i, queue in enumerate(self.queues) if queue]
            run_together(works, self.streams[0].backend)
        return self


def alone(pipeline: Pipeline, camera: int) -> list[EmbeddingResult]:
    stream = pipeline.open_stream()
    return [stream.embed(tubelet) for tubelet in decoded(stream, pictures(camera))]


def rows_of_steps(backend: TorchBackend) -> list[int]:
    """Tokens of each step from now on, appended when its first layer computes them."""
    rows: list[int] = []
    backend._encoder.layers[0].norm1.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    return rows


@contextmanager
def steps_fail(backend: TorchBackend, above: int, error: BaseException) -> Iterator[None]:
    """A block in which a step of more than this many tokens raises in its last layer."""

    def fail(module: object, inputs: tuple, output: tuple) -> None:
        if len(output[0]) > above:
            raise error

    hook = backend._encoder.layers[-1].register_forward_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def assert_same(ours: list[EmbeddingResult], theirs: list[EmbeddingResult], tolerance: float) -> None:
    assert [r.plan.token_idx.tolist() for r in ours] == [r.plan.token_idx.tolist() for r in theirs]
    for name in ("reason", "reuse_count", "window_fill", "encoded_stamp_ns", "tubelet_index", "tokens_computed"):
        assert [getattr(r, name) for r in ours] == [getattr(r, name) for r in theirs]
    mine, expected = (np.stack([r.vector for r in results]) for results in (ours, theirs))
    assert np.abs(mine - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", SETTINGS)
def test_streams_stepped_together_get_what_each_gets_alone(name):
    """Whatever the age of each, and what each computes: all, some or none of its tokens."""
    pipeline = Pipeline(tiny_config(**SETTINGS[name]))
    rows = rows_of_steps(pipeline.backend)
    cameras = Cameras(pipeline).play(0, 1, 4)
    assert max(rows) > S, "some steps were of several streams"
    assert not cameras.failed
    for camera, results in enumerate(cameras.results):
        assert_same(results, alone(pipeline, camera), 2e-2 if name in ("bf16", "int8") else 1e-6)


@pytest.mark.parametrize("error", [MemoryError("no memory"), SystemExit(1)])
def test_joint_step_that_fails_costs_no_stream_anything(error):
    pipeline = Pipeline(tiny_config(**SETTINGS["sparse"]))
    with steps_fail(pipeline.backend, above=S, error=error):
        cameras = Cameras(pipeline).play(0, 1, 4)
    assert not cameras.failed
    for camera, results in enumerate(cameras.results):
        assert_same(results, alone(pipeline, camera), 0.0)


def test_joint_step_that_fails_once_its_rings_moved_on_moves_none(monkeypatch):
    """As when there is no memory for the pooling."""
    pipeline = Pipeline(tiny_config(gate=GateConfig(enabled=False)))
    expected = [alone(pipeline, camera) for camera in range(2)]
    cameras = Cameras(pipeline, 2)
    pooling, calls = cameras.streams[1]._encoding._state._pooling, []
    pool = type(pooling).pool

    def fail_first(*arguments):
        calls.append(1)
        if len(calls) % 2:
            raise MemoryError("no memory")
        return pool(pooling, *arguments)

    monkeypatch.setattr(pooling, "pool", fail_first)
    cameras.play()
    assert len(calls) == 2 * len(expected[1])
    for results, theirs in zip(cameras.results, expected, strict=True):
        assert_same(results, theirs, 0.0)


def test_stream_whose_step_is_not_finite_fails_alone():
    pipeline = Pipeline(tiny_config(gate=GateConfig(enabled=False)))
    cameras = Cameras(pipeline)
    third = cameras.queues[1][3]
    cameras.queues[1][3] = third._replace(pixels=np.full_like(third.pixels, np.nan))
    cameras.play()
    assert [(place, type(failed)) for place, failed in cameras.failed] == [(1, NonFiniteError)]
    assert [len(results) for results in cameras.results] == [12, 11, 12]
    assert cameras.streams[1].ledger.dropped == {"encoder_error": 2}
    for camera in (0, 2):
        assert_same(cameras.results[camera], alone(pipeline, camera), 1e-6)


@pytest.mark.parametrize("fault", ["step:error:5", "step:exit:4", "output:nan:7", "step:memory:3, output:nan:4"])
def test_faults_of_one_stream_cost_its_tubelets_alone(fault):
    cameras = Cameras(Pipeline(tiny_config(gate=GateConfig(enabled=False))))
    with injected(*read_faults(fault)):
        cameras.play(0, 2, 1)
    assert cameras.failed
    for place, stream in enumerate(cameras.streams):
        failed = sum(place == other for other, _ in cameras.failed)
        ledger = stream.ledger
        assert (ledger.received, ledger.used, ledger.dropped_total) == (24, 24 - 2 * failed, 2 * failed)
        assert stream.published == len(cameras.results[place]) == 12 - failed


@pytest.fixture(scope="module")
def calls() -> Pipeline:
    """The default model on ONNX Runtime, where a joint step is a call for each stream, two at once."""
    pytest.importorskip("onnx", reason="needs onnx, of which graphs are made; `make test` brings it")
    encoder, backend = EncoderConfig(window=3), BackendConfig(name="onnxruntime", threads=2)
    pipeline = Pipeline(tiny_config(encoder=encoder, backend=backend, tokens=TokensConfig(select="changed")))
    assert pipeline.backend.info.together == 2
    return pipeline


def test_calls_at_once_give_what_each_stream_gets_alone(calls):
    expected = [alone(calls, camera) for camera in range(3)]
    cameras = Cameras(calls).play(0, 1, 4)
    assert not cameras.failed
    for results, theirs in zip(cameras.results, expected, strict=True):
        assert_same(results, theirs, 1e-6)


@pytest.mark.parametrize("error", [MemoryError("no memory"), SystemExit(1)])
def test_call_that_fails_beside_others_moves_no_stream(calls, error, monkeypatch):
    expected = [alone(calls, camera) for camera in range(2)]
    cameras = Cameras(calls, 2)
    state, tries = cameras.streams[1]._encoding._state, []
    step = type(state)._run

    def fail_first(*arguments):
        tries.append(1)
        if len(tries) % 2:
            raise error
        return step(state, *arguments)

    monkeypatch.setattr(state, "_run", fail_first)
    cameras.play()
    assert len(tries) >= 2 * len(expected[1])
    assert not cameras.failed
    for results, theirs in zip(cameras.results, expected, strict=True):
        assert_same(results, theirs, 1e-6)


def test_stream_of_a_graph_whose_step_is_not_finite_fails_alone(calls):
    config = tiny_config(encoder=EncoderConfig(window=3), gate=GateConfig(enabled=False))
    cameras = Cameras(Pipeline(config, calls.backend))
    third = cameras.queues[1][3]
    cameras.queues[1][3] = third._replace(pixels=np.full_like(third.pixels, np.nan))
    cameras.play()
    assert [(place, type(failed)) for place, failed in cameras.failed] == [(1, ArithmeticError)]
    assert [len(results) for results in cameras.results] == [12, 11, 12]


def test_work_that_needs_no_step_is_finished_before_the_others_are_computed():
    done: list[str] = []

    class Encoder:
        def step(self, patches: str, token_idx: object) -> str:
            done.append(f"step {patches}")
            return patches

    def work(name: str, steps: int) -> Work[None]:
        for n in range(steps):
            yield StepRequest(Encoder(), f"{name}{n}")
        done.append(name)

    run_together([work("a", 2), work("b", 0), work("c", 1)], backend=None)
    assert done == ["b", "step a0", "step a1", "a", "step c0", "c"]
