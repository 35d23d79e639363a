"""The worker between receiving and encoding, without a graph: who is dropped, who is served, and nothing uncounted."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from scenes import PERIOD_NS, textured, tiny_config

from saccade_ros.config import GateConfig
from saccade_ros.faults import Fault, injected
from saccade_ros.frames import Frame, Picture
from saccade_ros.nodes.worker import ArrivalPace, EncodeWorker
from saccade_ros.pipeline import Pipeline, Stream
from saccade_ros.vision.images import MalformedImage
from saccade_ros.vision.ledger import LateTubelet

TIMEOUT_S = 30.0

PICTURE = textured()  # what every message shows


class Bench:
    """A worker with streams of raw images. Decoding one, or emitting, may wait for an event or raise an exception."""

    def __init__(self, pipeline: Pipeline, streams: int = 1, **limits: float) -> None:
        self.published: list[tuple[str, int]] = []
        self.reported: list[tuple[str, BaseException]] = []
        self.emit_fails: Exception | None = None
        self.emit_waits: threading.Event | None = None
        self._acts: dict[int, object] = {}  # by the first byte of an image
        self._done = threading.Condition()
        self.streams = [pipeline.open_stream(f"/camera{i}", self._convert) for i in range(streams)]
        self.worker = EncodeWorker(self.streams, self._emit, self._report, **limits)

    def _convert(self, image: SimpleNamespace, encoding: str) -> Picture:
        act = self._acts.get(int(image.data[0]))
        if isinstance(act, BaseException):
            raise act
        if isinstance(act, threading.Event):
            assert act.wait(TIMEOUT_S)
        return PICTURE

    def _emit(self, stream: Stream, tubelet: object, result: object) -> None:
        if self.emit_fails:
            raise self.emit_fails
        if waits := self.emit_waits:
            self.emit_waits = None
            assert waits.wait(TIMEOUT_S)
        with self._done:
            self.published.append((stream.name, result.tubelet_index))
            self._done.notify_all()

    def _report(self, stream: Stream, trouble: BaseException) -> None:
        with self._done:
            self.reported.append((stream.name, trouble))
            self._done.notify_all()

    def offer(self, index: int, act: object = None, stream: int = 0) -> None:
        """Both frames of a tubelet, the newer one carrying `act`."""
        height, width, _ = PICTURE.shape
        for n, carried in ((2 * index, None), (2 * index + 1, act)):
            data = np.zeros(2 * width * height, np.uint8)
            if carried is not None:
                data[0] = 1 + len(self._acts)
                self._acts[int(data[0])] = carried
            # YUV, which is converted before it is resized, so that the first byte arrives
            layout = {"height": height, "width": width, "encoding": "uyvy", "is_bigendian": 0, "step": 2 * width}
            image = SimpleNamespace(**layout, data=data)
            self.worker.offer(self.streams[stream], Frame(image, 10**9 + n * PERIOD_NS, "camera"))

    def offer_busy(self, index: int, stream: int = 0) -> threading.Event:
        """A tubelet that keeps the encoder until the event is set; returns once the encoder has it."""
        busy = self.emit_waits = threading.Event()
        self.offer(index, None, stream)
        while self.emit_waits:
            time.sleep(0.001)
        return busy

    def wait(self, said: Callable[[], bool]) -> None:
        with self._done:
            assert self._done.wait_for(said, TIMEOUT_S)


@contextmanager
def hanging_step(bench: Bench, seconds: float) -> Iterator[None]:
    """A block at whose start the encoder has begun a step that hangs."""
    hang = Fault("step", "hang", seconds=seconds)
    with injected(hang):
        bench.offer(0)
        while not hang.met:
            time.sleep(0.001)
        yield


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(tiny_config(gate=GateConfig(enabled=False)))  # so that every tubelet is a step


@pytest.fixture
def bench(pipeline: Pipeline) -> Iterator[Bench]:
    bench = Bench(pipeline)
    bench.worker.resume()
    yield bench
    bench.worker.close()


def accounts(stream: Stream) -> tuple[int, int, dict[str, int], int]:
    ledger = stream.ledger
    return ledger.received, ledger.used, dict(ledger.dropped), ledger.pending


def test_busy_encoder_is_given_the_newest_tubelet_next(bench):
    busy = bench.offer_busy(0)
    for index in (1, 2, 3):
        bench.offer(index)
    busy.set()
    bench.wait(lambda: len(bench.published) == 2)
    bench.worker.pause()
    assert [index for _, index in bench.published] == [0, 3]
    assert accounts(bench.streams[0]) == (8, 4, {"overflow": 4}, 0)


def test_encoder_failure_is_reported_counted_and_survived(bench):
    bench.offer(0)
    bench.wait(lambda: len(bench.published) == 1)
    bench.offer(1, MemoryError("no memory"))
    bench.wait(lambda: len(bench.reported) == 1)
    bench.offer(2)
    bench.wait(lambda: len(bench.published) == 2)
    bench.worker.pause()
    assert isinstance(bench.reported[0][1], MemoryError)
    assert accounts(bench.streams[0]) == (6, 4, {"encoder_error": 2}, 0)


def test_malformed_frame_costs_its_partner_too(bench):
    bench.offer(0, MalformedImage("undecodable", "cut"))
    bench.wait(lambda: len(bench.reported) == 1)
    bench.worker.pause()
    assert accounts(bench.streams[0]) == (2, 0, {"undecodable": 1, "partner": 1}, 0)


def test_publishing_that_fails_counts_as_not_used(bench):
    bench.emit_fails = OSError("context is gone")
    bench.offer(0)
    bench.wait(lambda: len(bench.reported) == 1)
    bench.worker.pause()
    assert accounts(bench.streams[0]) == (2, 0, {"encoder_error": 2}, 0)


def test_pause_waits_for_the_tubelet_in_hand_and_drops_the_waiting(bench):
    busy = bench.offer_busy(0)
    bench.offer(1, textured())
    threading.Timer(0.2, busy.set).start()
    bench.worker.pause()
    assert [index for _, index in bench.published] == [0]
    assert accounts(bench.streams[0]) == (4, 2, {"reset": 2}, 0)


def test_paused_worker_counts_frames_as_inactive(bench):
    bench.worker.pause()
    bench.offer(0)
    assert accounts(bench.streams[0]) == (2, 0, {"inactive": 2}, 0)


def test_cameras_take_turns(pipeline):
    bench = Bench(pipeline, streams=3)
    bench.worker.resume()
    busy = bench.offer_busy(0, stream=1)
    for stream in (0, 1, 2):
        bench.offer(1, stream=stream)
    busy.set()
    bench.wait(lambda: len(bench.published) == 4)
    bench.worker.close()
    assert [topic for topic, _ in bench.published] == ["/camera1", "/camera2", "/camera0", "/camera1"]


def test_cameras_that_are_ready_together_are_one_step_and_a_lone_one_waits_for_nobody(pipeline, monkeypatch):
    monkeypatch.setattr("saccade_ros.nodes.worker.PATIENCE_S", TIMEOUT_S)
    bench = Bench(pipeline, streams=3)
    rows: list[int] = []  # tokens of each step
    layer = pipeline.backend._encoder.layers[0].norm1
    hook = layer.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    bench.worker.resume()
    busy, loaded = bench.offer_busy(0, stream=1), threading.Event()
    for stream in (0, 1, 2):
        bench.offer(1, loaded, stream)
    threading.Timer(0.5, loaded.set).start()  # they wait for each other as long as their own decoding has taken
    busy.set()
    bench.wait(lambda: len(bench.published) == 4)
    bench.offer(2, stream=0)
    bench.wait(lambda: len(bench.published) == 5)
    hook.remove()
    bench.worker.close()
    assert [topic for topic, _ in bench.published[:4]] == ["/camera1", "/camera2", "/camera0", "/camera1"]
    assert rows == [64, 3 * 64, 64]


def test_camera_that_fails_in_a_joint_step_fails_alone(pipeline):
    bench = Bench(pipeline, streams=3)
    bench.worker.resume()
    busy = bench.offer_busy(0, stream=0)
    with injected(Fault("step", "memory", every=2)):
        for stream in (0, 1, 2):
            bench.offer(1, stream=stream)
        busy.set()
        bench.wait(lambda: len(bench.published) == 3 and len(bench.reported) == 1)
    bench.worker.close()
    assert [topic for topic, _ in bench.published] == ["/camera0", "/camera1", "/camera0"]
    assert bench.reported[0][0] == "/camera2"
    assert accounts(bench.streams[2]) == (2, 0, {"encoder_error": 2}, 0)


def test_close_ends_the_thread_and_may_be_repeated(pipeline):
    bench = Bench(pipeline)
    before = threading.active_count()
    assert bench.worker.is_alive
    assert bench.worker.close()
    assert bench.worker.close()
    assert not bench.worker.is_alive
    assert threading.active_count() == before - 2, "one that encodes, one that decodes"


# Hangs and failures: nobody waits without a limit


def test_camera_whose_decoding_is_slow_slows_itself_alone(pipeline):
    """A bomb of a picture holds up its own thread; the others are served at once."""
    bench = Bench(pipeline, streams=3)
    bench.worker.resume()
    slow = threading.Event()
    bench.offer(0, slow, stream=1)
    for index in range(5):
        for stream in (0, 2):
            bench.offer(index, stream=stream)
        bench.wait(lambda n=index: len(bench.published) == 2 * (n + 1))
    bench.offer(1, stream=1)
    bench.offer(2, stream=1)
    slow.set()
    bench.wait(lambda: len(bench.published) == 12)
    bench.worker.close()
    assert {topic for topic, _ in bench.published[:10]} == {"/camera0", "/camera2"}
    assert [index for topic, index in bench.published if topic == "/camera1"] == [0, 2]
    assert accounts(bench.streams[1]) == (6, 4, {"overflow": 2}, 0)


def test_decoding_that_never_ends_costs_one_camera(pipeline):
    bench = Bench(pipeline, streams=2)
    bench.worker.resume()
    never = threading.Event()
    bench.offer(0, never, stream=0)
    bench.offer(0, stream=1)
    bench.wait(lambda: len(bench.published) == 1)
    assert bench.worker.in_hand_s(bench.streams[0]) > 0
    assert bench.worker.close() is False
    never.set()


@pytest.mark.parametrize("kind", ["exit", "memory", "error"])
@pytest.mark.parametrize("point", ["decode", "step"])
def test_whatever_is_raised_on_its_threads_is_reported_and_counted_and_ends_none(bench, point, kind):
    tubelets = 12
    with injected(Fault(point, kind, every=3)):
        for index in range(tubelets):
            done = len(bench.published) + len(bench.reported)
            bench.offer(index)
            bench.wait(lambda n=done: len(bench.published) + len(bench.reported) == n + 1)
    assert bench.worker.is_alive
    bench.worker.pause()
    failed = len(bench.reported)
    assert 0 < failed < tubelets
    assert accounts(bench.streams[0]) == (24, 24 - 2 * failed, {"encoder_error": 2 * failed}, 0)


def test_pause_gives_up_a_step_that_hangs_and_counts_its_embedding_as_late(bench, monkeypatch):
    monkeypatch.setattr("saccade_ros.nodes.worker.PAUSE_LIMIT_S", 0.2)
    with hanging_step(bench, seconds=1.0):
        started = time.monotonic()
        bench.worker.pause()
        assert time.monotonic() - started < 0.9
        bench.worker.pause()
        assert accounts(bench.streams[0]) == (2, 0, {}, 2)
        bench.wait(lambda: len(bench.reported) == 1)
    assert isinstance(bench.reported[0][1], LateTubelet)
    bench.worker.resume()
    bench.offer(1)
    bench.wait(lambda: len(bench.published) == 1)
    bench.worker.pause()
    assert accounts(bench.streams[0]) == (4, 2, {"late": 2}, 0)


def test_embedding_older_than_the_limit_is_not_emitted(pipeline):
    bench = Bench(pipeline, max_latency_s=0.3)
    bench.worker.resume()
    with injected(Fault("step", "hang", every=2, seconds=0.4)):
        for index in range(4):
            done = len(bench.published) + len(bench.reported)
            bench.offer(index)
            bench.wait(lambda n=done: len(bench.published) + len(bench.reported) == n + 1)
    bench.worker.close()
    assert [index for _, index in bench.published] == [0, 2]
    assert "later than node.max_latency_s (0.3 s): make the encoder cheaper" in str(bench.reported[0][1])
    assert accounts(bench.streams[0]) == (8, 4, {"late": 4}, 0)


def test_worker_with_a_step_that_hangs_is_left_behind_when_closed(pipeline):
    bench = Bench(pipeline)
    bench.worker.resume()
    with hanging_step(bench, seconds=1.5):
        started = time.monotonic()
        assert bench.worker.close() is False
        assert time.monotonic() - started < 1.0
        while bench.worker.in_hand_s(bench.streams[0]):
            time.sleep(0.01)
    assert bench.published == []
    assert accounts(bench.streams[0]) == (2, 0, {"late": 2}, 0)


# Shadow evaluations in idle time


def test_pace_expects_the_shortest_recent_interval_and_forgets_a_silent_camera():
    pace = ArrivalPace()
    assert pace.next_s(10.0) == math.inf, "nothing has ever come"
    pace.arrived(10.0)
    assert pace.next_s(10.1) == 10.1, "one tubelet has no interval: the next may come at any moment"
    for now in (10.5, 11.2, 11.7):
        pace.arrived(now)
    assert pace.next_s(11.8) == pytest.approx(12.2)
    assert pace.next_s(13.0) == pytest.approx(12.2), "overdue: it may come at any moment"
    assert pace.next_s(12.2 + ArrivalPace.SILENT_S + 0.1) == math.inf


@pytest.fixture
def evaluating() -> Iterator[Bench]:
    bench = Bench(Pipeline(tiny_config(gate=GateConfig(shadow_rate=1.0))))
    bench.worker.resume()
    yield bench
    bench.worker.close()


def paced(bench: Bench, seconds_to_next: float) -> None:
    """Let the worker expect the next tubelet at this distance."""
    for pace in bench.worker.paces.values():
        pace.next_s = lambda now_s: now_s + seconds_to_next  # type: ignore[method-assign]


def show(bench: Bench, indices: range) -> None:
    for index in indices:
        bench.offer(index)
        bench.wait(lambda n=index: len(bench.published) == n + 1)


def test_skipped_tubelet_is_evaluated_when_there_is_time(evaluating):
    paced(evaluating, 3600.0)
    stream = evaluating.streams[0]
    for index in range(6):
        show(evaluating, [index])
        while stream.shadow.evaluations < index:  # the next one would come during it else
            time.sleep(0.001)
    evaluating.worker.pause()
    assert (stream.encoded, stream.published) == (1, 6)
    assert (stream.shadow.evaluations, stream.shadow.refused, stream.shadow.delays) == (5, 0, 0)
    assert accounts(stream) == (12, 12, {}, 0)


def test_no_shadow_evaluation_that_might_delay_the_next_tubelet(evaluating):
    paced(evaluating, 0.0)
    show(evaluating, range(6))
    evaluating.worker.pause()
    stream = evaluating.streams[0]
    assert (stream.shadow.evaluations, stream.shadow.refused) == (0, 5)


def test_no_shadow_evaluation_while_any_stream_has_a_tubelet_waiting():
    bench = Bench(Pipeline(tiny_config(gate=GateConfig(shadow_rate=1.0))), streams=2)
    bench.worker.resume()
    paced(bench, 3600.0)
    show(bench, range(1))
    busy = bench.offer_busy(1)
    bench.offer(0, stream=1)
    busy.set()
    bench.wait(lambda: len(bench.published) == 3)
    bench.worker.close()
    assert bench.streams[0].shadow.evaluations == 0
    assert bench.streams[0].shadow.refused == 1


def test_shadow_evaluation_that_fails_is_reported_and_costs_no_frame(evaluating, monkeypatch):
    paced(evaluating, 3600.0)
    show(evaluating, range(1))
    monkeypatch.setattr(
        evaluating.streams[0]._encoding._state, "peek", lambda _: (_ for _ in ()).throw(MemoryError("no"))
    )
    show(evaluating, range(1, 3))
    evaluating.wait(lambda: len(evaluating.reported) == 2)
    evaluating.worker.pause()
    assert accounts(evaluating.streams[0]) == (6, 6, {}, 0)
