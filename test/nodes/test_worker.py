"""The worker between receiving and encoding, without a graph: who is dropped, who is served, and nothing uncounted."""

import math
import threading
from collections.abc import Callable, Iterator

import pytest
from scenes import PERIOD_NS, textured, tiny_config

from saccade_ros.config import GateConfig
from saccade_ros.engine import Engine, StreamEncoder
from saccade_ros.frames import Picture
from saccade_ros.nodes.worker import Arrival, Camera, EncodeWorker, Pace
from saccade_ros.vision.ledger import FrameLedger
from saccade_ros.vision.malformed import MalformedImage
from saccade_ros.vision.tubelet import TubeletBuffer

TIMEOUT_S = 30.0


class Bench:
    """A worker with cameras whose messages are pictures, exceptions to raise, or events to wait for."""

    def __init__(self, engine: Engine, cameras: int = 1) -> None:
        self.published: list[tuple[str, int]] = []
        self.reported: list[tuple[str, Exception]] = []
        self._done = threading.Condition()
        self.cameras = []
        for i in range(cameras):
            ledger = FrameLedger()
            encoder: StreamEncoder[Arrival] = StreamEncoder(engine.config, engine.backend, self._decode)
            self.cameras.append(Camera(f"/camera{i}", ledger, TubeletBuffer(engine.config.stream, ledger), encoder))
        self.worker = EncodeWorker(self.cameras, self._publish, self._report)

    def _decode(self, arrival: Arrival) -> Picture:
        if isinstance(arrival.message, Exception):
            raise arrival.message
        if isinstance(arrival.message, threading.Event):
            assert arrival.message.wait(TIMEOUT_S)
            return textured()
        return arrival.message

    def _publish(self, camera: Camera, tubelet: object, result: object, queue_ms: float) -> None:
        with self._done:
            self.published.append((camera.topic, result.index))
            self._done.notify_all()

    def _report(self, camera: Camera, trouble: Exception) -> None:
        with self._done:
            self.reported.append((camera.topic, trouble))
            self._done.notify_all()

    def offer(self, index: int, message: object, camera: int = 0) -> None:
        """Both frames of a tubelet, the newer one carrying `message`."""
        for n, payload in ((2 * index, textured()), (2 * index + 1, message)):
            arrival = Arrival(payload, received_s=0.0)
            self.worker.offer(self.cameras[camera], arrival, 10**9 + n * PERIOD_NS, "camera", (240, 320))

    def wait(self, said: Callable[[], bool]) -> None:
        with self._done:
            assert self._done.wait_for(said, TIMEOUT_S)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_config())


@pytest.fixture
def bench(engine: Engine) -> Iterator[Bench]:
    bench = Bench(engine)
    bench.worker.resume()
    yield bench
    bench.worker.close()


def accounts(camera: Camera) -> tuple[int, int, dict[str, int], int]:
    ledger = camera.ledger
    return ledger.received, ledger.used, dict(ledger.dropped), ledger.pending


def test_busy_encoder_is_given_the_newest_tubelet_next(bench):
    busy = threading.Event()
    bench.offer(0, busy)
    while bench.cameras[0].waiting is not None:  # until the worker has taken it
        pass
    for index in (1, 2, 3):
        bench.offer(index, textured())
    busy.set()
    bench.wait(lambda: len(bench.published) == 2)
    bench.worker.pause()
    assert [index for _, index in bench.published] == [0, 3]
    assert accounts(bench.cameras[0]) == (8, 4, {"overflow": 4}, 0)


def test_encoder_failure_is_reported_counted_and_survived(bench):
    bench.offer(0, textured())
    bench.wait(lambda: len(bench.published) == 1)
    bench.offer(1, MemoryError("no memory"))
    bench.wait(lambda: len(bench.reported) == 1)
    bench.offer(2, textured())
    bench.wait(lambda: len(bench.published) == 2)
    bench.worker.pause()
    assert isinstance(bench.reported[0][1], MemoryError)
    assert accounts(bench.cameras[0]) == (6, 4, {"encoder_error": 2}, 0)


def test_malformed_frame_costs_its_partner_too(bench):
    bench.offer(0, MalformedImage("undecodable", "cut"))
    bench.wait(lambda: len(bench.reported) == 1)
    bench.worker.pause()
    assert accounts(bench.cameras[0]) == (2, 0, {"undecodable": 1, "partner": 1}, 0)


def test_publishing_that_fails_counts_as_not_used(bench, monkeypatch):
    monkeypatch.setattr(bench.worker, "_publish", lambda *_: (_ for _ in ()).throw(OSError("context is gone")))
    bench.offer(0, textured())
    bench.wait(lambda: len(bench.reported) == 1)
    bench.worker.pause()
    assert accounts(bench.cameras[0]) == (2, 0, {"encoder_error": 2}, 0)


def test_pause_waits_for_the_tubelet_in_hand_and_drops_the_waiting(bench):
    busy = threading.Event()
    bench.offer(0, busy)
    while bench.cameras[0].waiting is not None:
        pass
    bench.offer(1, textured())
    threading.Timer(0.2, busy.set).start()
    bench.worker.pause()
    assert [index for _, index in bench.published] == [0]
    assert accounts(bench.cameras[0]) == (4, 2, {"reset": 2}, 0)


def test_paused_worker_counts_frames_as_inactive(bench):
    bench.worker.pause()
    bench.offer(0, textured())
    assert accounts(bench.cameras[0]) == (2, 0, {"inactive": 2}, 0)


def test_cameras_take_turns(engine):
    bench = Bench(engine, cameras=3)
    busy = threading.Event()
    bench.worker.resume()
    bench.offer(0, busy, camera=1)
    while bench.cameras[1].waiting is not None:
        pass
    for camera in (0, 1, 2):
        bench.offer(1, textured(), camera)
    busy.set()
    bench.wait(lambda: len(bench.published) == 4)
    bench.worker.close()
    assert [topic for topic, _ in bench.published] == ["/camera1", "/camera2", "/camera0", "/camera1"]


def test_close_ends_the_thread_and_may_be_repeated(engine):
    bench = Bench(engine)
    before = threading.active_count()
    bench.worker.close()
    bench.worker.close()
    assert threading.active_count() == before - 1


# Audits in idle time


def test_pace_expects_the_shortest_recent_interval_and_forgets_a_silent_camera():
    pace = Pace()
    assert pace.next_s(10.0) == math.inf, "nothing has ever come"
    pace.arrived(10.0)
    assert pace.next_s(10.1) == 10.1, "one tubelet has no interval: the next may come at any moment"
    for now in (10.5, 11.2, 11.7):
        pace.arrived(now)
    assert pace.next_s(11.8) == pytest.approx(12.2)
    assert pace.next_s(13.0) == pytest.approx(12.2), "overdue: it may come at any moment"
    assert pace.next_s(12.2 + Pace.SILENT_S + 0.1) == math.inf


@pytest.fixture
def auditing() -> Iterator[Bench]:
    bench = Bench(Engine(tiny_config(gate=GateConfig(shadow_rate=1.0))))
    bench.worker.resume()
    yield bench
    bench.worker.close()


def paced(bench: Bench, seconds_to_next: float) -> None:
    """Let the worker expect the next tubelet at this distance."""
    for camera in bench.cameras:
        camera.pace.next_s = lambda now_s: now_s + seconds_to_next  # type: ignore[method-assign]


def show(bench: Bench, indices: range) -> None:
    for index in indices:
        bench.offer(index, textured())
        bench.wait(lambda n=index: len(bench.published) == n + 1)


def test_skipped_tubelet_is_audited_when_there_is_time(auditing):
    paced(auditing, 3600.0)
    show(auditing, range(6))
    auditing.worker.pause()
    camera = auditing.cameras[0]
    assert (camera.encoded, camera.tubelets) == (1, 6)
    assert (camera.encoder.report()["shadow_evaluations"], camera.shadow_refused, camera.shadow_delays) == (5, 0, 0)
    assert accounts(camera) == (12, 12, {}, 0)


def test_no_audit_that_might_delay_the_next_tubelet(auditing):
    paced(auditing, 0.0)
    show(auditing, range(6))
    auditing.worker.pause()
    camera = auditing.cameras[0]
    assert (camera.encoder.report()["shadow_evaluations"], camera.shadow_refused) == (0, 5)


def test_no_audit_while_any_camera_has_a_tubelet_waiting():
    bench = Bench(Engine(tiny_config(gate=GateConfig(shadow_rate=1.0))), cameras=2)
    bench.worker.resume()
    paced(bench, 3600.0)
    show(bench, range(1))
    busy = threading.Event()
    bench.offer(1, busy)
    while bench.cameras[0].waiting is not None:
        pass
    bench.offer(0, textured(), camera=1)
    busy.set()
    bench.wait(lambda: len(bench.published) == 3)
    bench.worker.close()
    assert bench.cameras[0].encoder.report()["shadow_evaluations"] == 0
    assert bench.cameras[0].shadow_refused == 1


def test_audit_that_fails_is_reported_and_costs_no_frame(auditing, monkeypatch):
    paced(auditing, 3600.0)
    show(auditing, range(1))
    monkeypatch.setattr(auditing.cameras[0].encoder._state, "peek", lambda _: (_ for _ in ()).throw(MemoryError("no")))
    show(auditing, range(1, 3))
    auditing.wait(lambda: len(auditing.reported) == 2)
    auditing.worker.pause()
    assert accounts(auditing.cameras[0]) == (6, 6, {}, 0)
