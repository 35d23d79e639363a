"""The worker between receiving and encoding, without a graph: who is dropped, who is served, and nothing uncounted."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from scenes import PERIOD_NS, textured, tiny_config

from saccade_ros.config import GateConfig
from saccade_ros.frames import Frame, Picture
from saccade_ros.nodes.worker import ArrivalPace, EncodeWorker
from saccade_ros.pipeline import Pipeline, Stream
from saccade_ros.vision.images import MalformedImage

TIMEOUT_S = 30.0


class Bench:
    """A worker with streams of raw images. Decoding one may wait for an event or raise an exception."""

    def __init__(self, pipeline: Pipeline, streams: int = 1) -> None:
        self.published: list[tuple[str, int]] = []
        self.reported: list[tuple[str, Exception]] = []
        self.emit_fails: Exception | None = None
        self._acts: dict[int, object] = {}  # by the first byte of an image
        self._done = threading.Condition()
        self.streams = [pipeline.open_stream(f"/camera{i}", self._convert) for i in range(streams)]
        self.worker = EncodeWorker(self.streams, self._emit, self._report)

    def _convert(self, image: SimpleNamespace, encoding: str) -> Picture:
        act = self._acts.get(int(image.data[0]))
        if isinstance(act, Exception):
            raise act
        if isinstance(act, threading.Event):
            assert act.wait(TIMEOUT_S)
        return image.data.reshape(image.height, image.width, 3)

    def _emit(self, stream: Stream, tubelet: object, result: object) -> None:
        if self.emit_fails:
            raise self.emit_fails
        with self._done:
            self.published.append((stream.name, result.tubelet_index))
            self._done.notify_all()

    def _report(self, stream: Stream, trouble: Exception) -> None:
        with self._done:
            self.reported.append((stream.name, trouble))
            self._done.notify_all()

    def offer(self, index: int, act: object = None, stream: int = 0) -> None:
        """Both frames of a tubelet, the newer one carrying `act`."""
        for n, carried in ((2 * index, None), (2 * index + 1, act)):
            picture = textured()
            picture[0, 0, 0] = 0
            if carried is not None:
                picture[0, 0, 0] = 1 + len(self._acts)
                self._acts[int(picture[0, 0, 0])] = carried
            height, width, _ = picture.shape
            layout = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
            image = SimpleNamespace(**layout, data=np.frombuffer(picture.tobytes(), np.uint8))
            self.worker.offer(self.streams[stream], Frame(image, 10**9 + n * PERIOD_NS, "camera"))

    def offer_busy(self, index: int, stream: int = 0) -> threading.Event:
        """A tubelet that keeps the worker until the event is set; returns once the worker has it."""
        busy = threading.Event()
        self.offer(index, busy, stream)
        while self.streams[stream].intake.waiting:
            pass
        return busy

    def wait(self, said: Callable[[], bool]) -> None:
        with self._done:
            assert self._done.wait_for(said, TIMEOUT_S)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(tiny_config())


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


def test_close_ends_the_thread_and_may_be_repeated(pipeline):
    bench = Bench(pipeline)
    before = threading.active_count()
    bench.worker.close()
    bench.worker.close()
    assert threading.active_count() == before - 1


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
