"""The encoder node over a real graph: exactness, accounts, lifecycle, parameters, and what must not kill it."""

import gc
import signal
import subprocess
import sys
import weakref
from contextlib import contextmanager

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from graph import (  # noqa: E402
    FAST,
    Graph,
    as_yaml,
    drops,
    jpeg,
    raw_image,
    save_adapter,
    save_checkpoint,
    save_classifier,
    start_node,
    stop,
    vectors,
)
from rclpy.context import Context  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from scenes import PERIOD_NS, frames_of, textured, tiny_config  # noqa: E402

from saccade_ros.config import EncoderConfig, TokensConfig  # noqa: E402
from saccade_ros.heads import LinearHead  # noqa: E402
from saccade_ros.nodes.conversions import stamp_to_ns  # noqa: E402
from saccade_ros.nodes.encoder_node import EncoderNode  # noqa: E402
from saccade_ros.pipeline import Pipeline  # noqa: E402

pytestmark = pytest.mark.ros

SCENES = [textured(seed=seed) for seed in range(4)]


def clip(count: int) -> list:
    """Each scene holds for five frames."""
    return [SCENES[i // 5 % 4] for i in range(count)]


@pytest.fixture(scope="module")
def shared():
    """One active node for the tests that leave it as it was; each uses stamps later than the one before."""
    with Graph() as graph:
        graph.wait_active()
        yield graph


def test_embeddings_are_the_librarys_to_the_bit():
    """Decisions, novelty and vectors: the node adds ROS and changes nothing."""
    stream = Pipeline(tiny_config()).open_stream()
    expected = [r for r in map(stream.push, frames_of(clip(40))) if r is not None]
    with Graph() as graph:
        graph.wait_active()
        received = graph.show(clip(40))
    assert 1 < sum(e.encoded for e in received) < len(received)
    assert np.array_equal(vectors(received), np.stack([r.vector for r in expected]))
    assert [e.encoded for e in received] == [r.encoded for r in expected]
    assert [e.reuse_count for e in received] == [r.reuse_count for r in expected]
    assert np.array_equal([e.novelty for e in received], np.float32([r.novelty for r in expected]), equal_nan=True)
    assert [e.window_fill for e in received] == [r.window_fill for r in expected]
    assert [stamp_to_ns(e.encoded_stamp) for e in received] == [r.encoded_stamp_ns for r in expected]


def test_header_is_the_newest_images_and_sequence_counts(shared):
    received = shared.show(clip(8), start_ns=10**12 + 7, frame_id="front/optical")
    assert [stamp_to_ns(e.header.stamp) for e in received] == [10**12 + 7 + i * PERIOD_NS for i in (1, 3, 5, 7)]
    assert {e.header.frame_id for e in received} == {"front/optical"}
    assert {e.stream for e in received} == {"/camera/image_raw"}
    assert np.diff([e.sequence for e in received]).tolist() == [1, 1, 1]
    assert [e.tubelet_index for e in received] == [0, 1, 2, 3]
    for e in received:
        assert 0 < e.decode_ms + e.gate_ms + e.encode_ms <= e.total_ms
        assert 0 <= e.queue_ms <= e.total_ms
        assert (e.encode_ms > 0) == e.encoded


def test_info_is_latched_and_names_the_random_weights(shared):
    info = shared.infos[-1]
    assert info.weights.startswith("RANDOM")
    assert (info.dim, info.window, info.input_size, info.streams) == (192, 3, 128, ["/camera/image_raw"])
    assert shared.show(clip(2), start_ns=2 * 10**12)[0].encoder_id == info.encoder_id
    assert info.encoder_id.startswith("random-")


def test_time_jump_and_new_frame_id_start_new_epochs(shared):
    start = 4 * 10**12
    first = shared.show(clip(4), start_ns=start)
    looped = shared.show(clip(4), start_ns=start - 10**11)
    renamed = shared.show(clip(4), start_ns=start - 10**11 + 4 * PERIOD_NS, frame_id="other")
    epochs = [e.stream_epoch for e in first + looped + renamed]
    assert [e - epochs[0] for e in epochs] == [0, 0, 1, 1, 2, 2]
    assert [e.window_fill for e in first + looped + renamed] == [1] * 6
    assert np.isnan(looped[0].novelty)


def test_reset_service_starts_the_stream_afresh(shared):
    before = shared.show(clip(4), start_ns=6 * 10**12)
    answer = shared.reset()
    after = shared.show(clip(2), start_ns=6 * 10**12 + 4 * PERIOD_NS)
    assert answer.success
    assert "1 streams" in answer.message
    assert after[0].encoded
    assert after[0].stream_epoch == before[-1].stream_epoch + 1


def test_threshold_changes_while_active_at_the_next_tubelet(shared):
    start = 8 * 10**12
    shared.show(clip(2), start_ns=start)
    assert shared.set_parameter("gate.event_change", 10.0).successful
    assert shared.set_parameter("gate.tau", 9.0).successful
    sleepy = shared.show(clip(10)[-2:], start_ns=start + 2 * PERIOD_NS)
    assert shared.set_parameter("gate.tau", 0.0).successful
    awake = shared.show(clip(10)[-2:], start_ns=start + 4 * PERIOD_NS)
    assert shared.set_parameter("gate.tau", 0.02).successful
    assert shared.set_parameter("gate.event_change", 0.4).successful
    assert [(e.encoded, e.novelty_threshold) for e in sleepy + awake] == [(False, 9.0), (True, 0.0)]


def test_token_selection_changes_while_active_at_the_next_tubelet():
    with Graph(tokens__select="ratio", tokens__ratio=0.25) as graph:
        graph.wait_active()
        quarter = graph.show(clip(10), start_ns=10**9)
        assert graph.set_parameter("tokens.ratio", 0.5).successful
        half = graph.show(clip(10), start_ns=10**9 + 10 * PERIOD_NS)
        refused = graph.set_parameter("tokens.ratio", 2.0)
        assert (refused.successful, "range" in refused.reason) == (False, True)
        after = graph.show(clip(4), start_ns=10**9 + 20 * PERIOD_NS)
    assert [e.tokens_computed for e in quarter] == [64, 64, 64, 16, 16], "all until the window of 3 is full"
    assert [e.tokens_computed for e in half + after] == [32] * 7


def test_selection_that_the_encoder_cannot_follow_is_warned_about_once():
    with Graph(tokens__select="changed", encoder__recompute=2) as graph:
        graph.wait_active()
        assert {e.tokens_computed for e in graph.show(clip(20))} <= {0, 64}
    assert (graph.infos[-1].tokens_select, graph.infos[-1].token_counts.tolist()) == ("changed", [64])
    assert graph.log.count("tokens.select is 'changed', but every tubelet that is encoded is computed whole") == 1
    assert "encoder.recompute is 2, and a sparse step needs 1" in graph.log


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tokens.threshold", -0.1, "range"),
        ("tokens.psnr_db", float("nan"), "range"),
        ("tokens.max_age_s", -1.0, "range"),
        ("tokens.dilate", 1.5, "type"),
        ("tokens.select", "ratio", "read at configure"),
        ("gate.tau", -1.0, "range"),
        ("gate.tau", float("nan"), "range"),
        ("gate.tau", "high", "type"),
        ("gate.max_skip_s", -5.0, "range"),
        ("encoder.window", 4, "read at configure"),
        ("node.topics", ["/other"], "read at configure"),
    ],
)
def test_bad_or_fixed_parameter_is_refused_with_its_reason(shared, name, value, said):
    result = shared.set_parameter(name, value)
    assert not result.successful
    assert said in result.reason.lower()
    assert shared.state() == "active"


def test_parameters_describe_themselves(shared):
    tau, window = shared.describe("gate.tau"), shared.describe("encoder.window")
    assert "Novelty" in tau.description
    assert tau.additional_constraints == ""
    assert window.additional_constraints == "read at configure: set it while the node is unconfigured"
    assert (tau.floating_point_range[0].from_value, tau.floating_point_range[0].to_value) == (0.0, 100.0)
    assert window.integer_range[0].from_value == 1
    assert "newest, window" in shared.describe("encoder.pooling").additional_constraints


MALFORMED = {
    "zero_size": {"width": 0},
    "wrong_step": {"step": 10},
    "short_data": {"data": bytes(100)},
    "unknown_encoding": {"encoding": "magic9"},
    "too_large": {"width": 60_000, "height": 60_000, "step": 180_000},
}


def test_malformed_images_are_counted_by_cause_and_warned_about_once():
    with Graph(vision__max_megapixels=1.0) as graph:
        graph.wait_active()
        publisher = graph.publisher()
        for fields in MALFORMED.values():
            for _ in range(3):
                image = raw_image(SCENES[0], 10**9)
                for name, value in fields.items():
                    setattr(image, name, value)
                publisher.publish(image)
        expected = dict.fromkeys(MALFORMED, 3)
        counts = graph.counts_once(lambda c: drops(c) == expected, f"drops {expected}")
        assert graph.state() == "active"
        assert (counts["frames_received"], counts["frames_used"], counts["frames_pending"]) == ("15", "0", "0")
        assert len(graph.show(clip(4), start_ns=2 * 10**9)) == 2
    for cause in MALFORMED:
        assert graph.log.count(f"/camera/image_raw: {cause}:") == 1
    assert "step is 10, but a row of 320 rgb8 pixels takes 960 bytes" in graph.log


def test_truncated_jpeg_costs_its_tubelet_and_nothing_else():
    topic = "/camera/image_raw/compressed"
    with Graph(node__topics=[topic]) as graph:
        graph.wait_active()
        publisher = graph.publisher(topic)
        for i in range(8):
            publisher.publish(jpeg(SCENES[0], 10**9 + i * PERIOD_NS, cut=0.6 if i == 3 else 1.0))
            graph.spin(0.1)
        counts = graph.counts_once(lambda c: c["frames_received"] == "8", "all eight")
        assert drops(counts) == {"undecodable": 1, "partner": 1} or drops(counts) == {"undecodable": 1}
        assert counts["frames_received"] == "8"
        assert int(counts["frames_used"]) + sum(drops(counts).values()) + int(counts["frames_pending"]) == 8
        assert len(graph.embeddings) == int(counts["tubelets_published"]) == 3
        assert graph.state() == "active"


def test_several_cameras_share_the_model_each_with_its_own_state():
    topics = ["/left/image_raw", "/right/image_raw"]
    with Graph(node__topics=topics) as graph:
        graph.wait_active()
        for i in range(0, 20, 2):
            for topic in topics:
                graph.show(clip(20)[i : i + 2], start_ns=10**9 + i * PERIOD_NS, topic=topic)
        by_stream = [[e for e in graph.embeddings if e.stream == topic] for topic in topics]
        assert [graph.counts(camera)["frames_used"] for camera in (0, 1)] == ["20", "20"]
    left, right = by_stream
    assert len(left) == len(right) == 10
    assert np.array_equal(vectors(left), vectors(right))
    assert [e.sequence for e in left] == list(range(10))


def test_encoder_slower_than_the_camera_drops_the_oldest_and_counts_it():
    slow = {"encoder__model": "vits", "encoder__window": 8, "encoder__recompute": 8, "gate__enabled": False}
    with Graph(**slow) as graph:
        graph.wait_active()
        publisher = graph.publisher()
        for i in range(75):
            publisher.publish(raw_image(SCENES[0], 10**9 + i * PERIOD_NS))
            graph.spin(0.04)
        assert graph.change_state("deactivate")
        counts = graph.counts_once(lambda c: c["message"] == "inactive", "final diagnostics")
        dropped = drops(counts)
        assert dropped["overflow"] > 0
        assert int(counts["frames_received"]) == int(counts["frames_used"]) + sum(dropped.values())
        assert counts["frames_pending"] == "0"
        assert len(graph.embeddings) == int(counts["tubelets_published"]) == int(counts["frames_used"]) // 2
        steps = np.diff([e.tubelet_index for e in graph.embeddings])
        assert (steps >= 1).all()
        assert steps.max() > 1
        for e in graph.embeddings:  # both frames of each tubelet are neighbours still
            assert (stamp_to_ns(e.header.stamp) - 10**9) // PERIOD_NS == 2 * e.tubelet_index + 1


def test_lifecycle_goes_round_twice_and_counts_what_comes_while_inactive():
    with Graph(node__autostart=False) as graph:
        for _ in range(2):
            assert graph.state() == "unconfigured"
            assert graph.change_state("configure")
            graph.publisher().publish(raw_image(SCENES[0], 10**9))
            counts = graph.counts_once(lambda c: drops(c) == {"inactive": 1}, "inactive drop")
            assert counts["message"] == "inactive"
            assert graph.change_state("activate")
            first = graph.show(clip(5)[:4])
            assert [(e.sequence, e.stream_epoch) for e in first] == [(0, 0), (1, 0)]
            graph.publisher().publish(raw_image(SCENES[0], 10**9 + 4 * PERIOD_NS))
            graph.counts_once(lambda c: c["frames_pending"] == "1", "half a tubelet")
            assert graph.change_state("deactivate")
            counts = graph.counts()
            assert drops(counts) == {"inactive": 1, "reset": 1}
            assert (counts["frames_received"], counts["frames_used"], counts["frames_pending"]) == ("6", "4", "0")
            assert graph.change_state("activate")
            assert graph.show(clip(2), start_ns=2 * 10**9)[0].stream_epoch == 1
            assert graph.change_state("deactivate")
            assert graph.change_state("cleanup")
        assert graph.change_state("shutdown")
        assert graph.state() == "finalized"


def test_shutdown_while_active_is_clean():
    with Graph() as graph:
        graph.wait_active()
        graph.show(clip(4))
        assert graph.change_state("shutdown")
        assert graph.state() == "finalized"


def test_adapter_and_video_classifier_load_by_parameter(tmp_path):
    """One node has both: the adapter is merged into the classifier's encoder, and each tubelet gets a name."""
    folder, adapter = save_classifier(tmp_path / "model", ("reach", "grasp")), tmp_path / "adapter.safetensors"
    save_adapter(folder, adapter)
    settings = {"model": str(folder), "adapter": str(adapter), "pooling": "probe"}
    stream = Pipeline(tiny_config(encoder=EncoderConfig(window=3, **settings))).open_stream()
    expected = [r for r in map(stream.push, frames_of(clip(8))) if r is not None]
    with Graph(**{f"encoder__{name}": value for name, value in settings.items()}) as graph:
        graph.wait_active()
        received = graph.show(clip(8))
    assert graph.infos[-1].weights == f"checkpoint {folder}, causal adapter {adapter}"
    assert graph.infos[-1].pooling == "probe"
    assert np.allclose(vectors(received), np.stack([r.vector for r in expected]), atol=1e-6)
    assert [e.label for e in received] == [r.label for r in expected]
    assert [e.score for e in received] == pytest.approx([r.score for r in expected], abs=1e-6)
    assert {e.label for e in received} <= {"reach", "grasp"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encoder.model": "no-such-model"}, "no-such-model' is no folder, no .pt file, no hub id"),
        ({"encoder.window": 40}, "window 40 is outside 1..32"),
        ({"encoder.recompute": 5}, "encoder.recompute is 5, more than encoder.window 3"),
        ({"stream.max_gap_s": 0.1, "stream.fps": 4.0}, "stream.max_gap_s is 0.1 s"),
        ({"backend.device": "cuda"}, "torch sees no GPU"),
        ({"encoder.pooling": "median"}, "choose one of newest, window, probe"),
        ({"encoder.adapter": "absent.safetensors"}, "encoder.adapter absent.safetensors: cannot be read"),
        ({"encoder.pooling": "probe"}, "RANDOM weights, size tiny, seed 0 has none"),
        ({"node.topics": ["/bad topic!"]}, "node.topics has '/bad topic!', which is no topic name"),
        ({"node.topics": ["/camera/"]}, "must not end with a forward slash"),
        ({"node.topics": ["/camera", "camera"]}, "node.topics are, resolved, /camera, /camera: name each topic once"),
        ({"node.output_topic": "bad topic!"}, "node.output_topic has 'bad topic!', which is no topic name"),
    ],
)
def test_what_cannot_be_configured_is_refused_and_the_node_lives(settings, said):
    import torch

    if "backend.device" in settings and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with Graph(reliable=False, **settings) as graph:
        graph.wait_state("unconfigured")
        assert not graph.change_state("configure")
        assert graph.state() == "unconfigured"
    assert said in graph.log


def test_checkpoint_loads_by_parameter_and_a_poisoned_one_is_refused(tmp_path):
    good, bad = save_checkpoint(tmp_path / "good"), save_checkpoint(tmp_path / "bad", poison=True)
    with Graph(encoder__model=good) as graph:
        graph.wait_active()
        assert graph.infos[-1].weights == f"checkpoint {good}"
        assert len(graph.show(clip(4))[0].vector) == 64
    with Graph(encoder__model=bad) as graph:
        graph.wait_state("unconfigured")
    assert "holds NaN or infinity; download" in graph.log


@pytest.mark.parametrize("setting", [{"gate.tau": -1.0}, {"encoder.window": "wide"}, {"stream.fps": 4}])
def test_impossible_parameter_at_start_ends_with_its_name_and_the_remedy(setting):
    process = start_node({**FAST, **setting}, domain_id=99)
    log, _ = process.communicate(timeout=60)
    name, default = next(iter(setting)), {"gate.tau": "0.02", "encoder.window": "8", "stream.fps": "4.0"}
    assert process.returncode == 1
    assert f"parameter {name}" in log
    assert f"such as {default[name]}" in log


def test_remap_to_a_forbidden_name_ends_the_node_in_a_line():
    command = [sys.executable, "-m", "saccade_ros.nodes.encoder_node", "--ros-args", "-r", "/camera:=/1st"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "'-r /camera:=/1st'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_node_cleanly(how):
    with Graph() as graph:
        graph.wait_active()
        graph.show(clip(4))
        assert stop(graph.process, how) == 0
    assert "Traceback" not in graph.log


def test_diagnostics_answer_is_it_working():
    with Graph(node__silence_s=1.5) as graph:
        graph.wait_active()
        silent = graph.counts_once(lambda c: c["level"] == "1", "warning about silence")
        assert "no image for" in silent["message"]
        so_far = len(graph.diagnostics)
        graph.show(clip(10))
        working = graph.counts_once(lambda c: "tubelets/s" in c["message"], "a working status", since=so_far)
        counts = graph.counts_once(lambda c: c["tubelets_published"] == "5", "five tubelets", since=so_far)
        computed = sum(e.tokens_computed for e in graph.embeddings) / (5 * 64)
        assert counts["tokens_computed_share"] == f"{computed:.4f}"
        assert "of the tokens" in working["message"]
        assert working["level"] == "0"
        assert working["name"] == "/saccade_encoder: /camera/image_raw"


def test_diagnostics_and_latencies_go_on_under_sim_time_without_a_clock():
    with Graph(use_sim_time=True) as graph:
        graph.wait_active()
        assert all(0 < e.total_ms < 5_000 for e in graph.show(clip(4)))
        assert graph.counts()["frames_used"] == "4"


@pytest.mark.parametrize(("reliable", "expected"), [(True, "RELIABLE"), (False, "BEST_EFFORT")])
def test_image_subscription_is_best_effort_unless_overridden(reliable, expected):
    with Graph(reliable=reliable) as graph:
        graph.wait_active()
        infos = graph.node.get_subscriptions_info_by_topic("/camera/image_raw")
        assert [info.qos_profile.reliability.name for info in infos] == [expected]


def test_yaml_of_parameters_reads_back():
    assert [as_yaml(v) for v in (True, 3, [1.5, "a"])] == ["true", "3", "[1.5, a]"]


def test_images_that_the_middleware_reports_lost_are_counted_apart():
    """Bursts that no best effort subscription takes whole. Fast DDS does not report every loss."""
    with Graph(reliable=False) as graph:
        graph.wait_active()
        publisher, sent, counts = graph.publisher(), 0, graph.counts()
        while counts["frames_lost_in_transport"] == "0":
            for _ in range(300):
                publisher.publish(raw_image(SCENES[0], 10**9 + sent * PERIOD_NS))
                sent += 1
            counts = graph.counts()
    lost, received = int(counts["frames_lost_in_transport"]), int(counts["frames_received"])
    assert received + lost <= sent
    assert received == int(counts["frames_used"]) + sum(drops(counts).values()) + int(counts["frames_pending"])


# What the gate says: events, pictures, shadow evaluations, budget


def appeared(count: int) -> list:
    """A still scene in which a small object appears halfway."""
    changed = SCENES[0].copy()
    changed[60:90, 80:110] = (200, 30, 30)
    return [SCENES[0]] * (count // 2) + [changed] * (count - count // 2)


def test_selected_tokens_are_the_librarys_and_the_reason_says_that_some_changed():
    stream = Pipeline(tiny_config(tokens=TokensConfig())).open_stream()
    expected = [r for r in map(stream.push, frames_of(appeared(24))) if r is not None]
    with Graph(tokens__select="changed") as graph:
        graph.wait_active()
        received = graph.show(appeared(24))
    assert [(e.reason, e.tokens_computed) for e in received] == [(r.reason, r.tokens_computed) for r in expected]
    assert np.array_equal(vectors(received), np.stack([r.vector for r in expected]))
    assert any(0 < e.tokens_computed < e.tokens for e in received)
    assert {e.reason for e in received if e.encoded} >= {"first", "event", "change"}


def test_event_is_published_once_with_its_stamp_and_its_place():
    with Graph() as graph:
        graph.wait_active()
        received = graph.show(appeared(24), start_ns=10**9)
        graph.wait_for(lambda: graph.events, "the event")
        graph.spin(0.5)
        (event,) = graph.events
    first = next(e for e in received if e.encoded and e.tubelet_index)
    assert first.reason in ("novelty", "event")
    assert event.header == first.header
    assert (event.stream, event.encoder_id) == (first.stream, first.encoder_id)
    assert (event.stream_epoch, event.tubelet_index) == (first.stream_epoch, first.tubelet_index)
    assert (event.novelty, event.tau) == (first.novelty, first.novelty_threshold)
    region = event.region
    assert region.x_offset <= 80 < 110 <= region.x_offset + region.width
    assert region.y_offset <= 60 < 90 <= region.y_offset + region.height
    assert region.width * region.height < 0.3 * 240 * 320


def test_maps_and_overlay_are_published_to_who_looks():
    with Graph() as graph:
        graph.wait_active()
        maps, plans, overlays = (graph.watch(name) for name in ("novelty_map", "computed_map", "debug/image"))
        received = graph.show(appeared(4))
        graph.wait_for(lambda: maps and len(plans) == len(overlays) == 2, "all pictures")
    (novelty,), overlay = maps, overlays[-1]
    assert [plan.header for plan in plans] == [embedding.header for embedding in received]
    assert [sum(plan.data) // 255 for plan in plans] == [embedding.tokens_computed for embedding in received]
    assert (plans[-1].encoding, plans[-1].height, plans[-1].width, plans[-1].step) == ("mono8", 8, 8, 8)
    assert (novelty.encoding, novelty.height, novelty.width, novelty.step) == ("32FC1", 8, 8, 32)
    assert novelty.header == overlay.header == received[-1].header
    patches = np.frombuffer(novelty.data, "<f4").reshape(8, 8)
    assert patches.max() > 0.2
    assert np.median(patches) < 0.05
    picture = np.frombuffer(overlay.data, np.uint8).reshape(240, 320, 3)
    assert (overlay.encoding, overlay.height, overlay.width) == ("rgb8", 240, 320)
    assert picture[75, 95, 0] > SCENES[0][75, 95, 0]
    assert np.array_equal(picture[200, 100], SCENES[0][200, 100])


def test_diagnostics_tell_budget_and_shadow_evaluations_which_change_nothing():
    """At a camera's pace, so that there is idle time; the same pictures as fast as they go give the same bytes."""
    still = {"gate__shadow_rate": 1.0, "gate__mode": "budget", "gate__tau": 0.15}
    with Graph(**still) as graph:
        graph.wait_active()
        for i in range(0, 40, 2):
            graph.show(clip(40)[i : i + 2], start_ns=10**9 + i * PERIOD_NS)
            graph.spin(0.15)
        paced = vectors(graph.embeddings)
        counts = graph.counts_once(lambda c: c["tubelets_published"] == "20", "all twenty")
    assert counts["gate.mode"] == "budget"
    assert float(counts["gate.tau"]) > 0
    assert {"gate.clamp", "gate.budget_use", "gate.staleness_s_mean", "gate.shadow_delays"} <= set(counts)
    assert int(counts["gate.shadow_evaluations"]) > 0
    assert int(counts["gate.shadow_evaluations"]) + int(counts["gate.shadow_refused"]) == int(
        counts["tubelets_skipped"]
    )
    with Graph(**{**still, "gate__shadow_rate": 0.0}) as graph:
        graph.wait_active()
        assert vectors(graph.show(clip(40))).tobytes() == paced.tobytes()
        assert graph.counts()["gate.shadow_evaluations"] == "0"


def test_calibration_for_another_encoder_is_refused_at_configure_with_the_reason():
    with Graph(gate__calibrated_for="vitl-256:0123:fp32", node__autostart=False) as graph:
        assert not graph.change_state("configure")
        assert graph.state() == "unconfigured"
    assert "gate.calibrated_for is 'vitl-256:0123:fp32', but the encoder is 'random-" in graph.log


@contextmanager
def node_of_this_process(**parameters: object):
    context = Context()
    rclpy.init(context=context, domain_id=98)
    settings = {**FAST, **{key.replace("__", "."): value for key, value in parameters.items()}}
    node = EncoderNode(context=context, parameter_overrides=[Parameter(k, value=v) for k, v in settings.items()])
    try:
        yield node
    finally:
        node.release()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_head_of_ones_own_names_embeddings_in_the_node_as_in_the_library(tmp_path):
    file = tmp_path / "head.safetensors"
    LinearHead(np.random.default_rng(0).normal(size=(3, 192)), [0, 0, 0], ["reach", "grasp", "lift"]).save(file)
    stream = Pipeline(tiny_config(encoder=EncoderConfig(model="tiny", window=3, head=str(file)))).open_stream()
    expected = [r for r in map(stream.push, frames_of(clip(12))) if r is not None]
    with Graph(encoder__head=str(file)) as graph:
        graph.wait_active()
        received = graph.show(clip(12))
    assert [e.label for e in received] == [r.label for r in expected]
    assert {e.label for e in received} <= {"reach", "grasp", "lift"}
    assert np.array_equal([e.score for e in received], np.float32([r.score for r in expected]))


def test_cleanup_gives_the_model_back():
    """Else a node that is configured anew holds two: the one that it loads, and the last one."""
    with node_of_this_process() as node:
        node.trigger_configure()
        model = weakref.ref(node._streams[0].backend)
        node.trigger_activate()
        node.trigger_deactivate()
        node.trigger_cleanup()
        gc.collect()
        assert model() is None


@pytest.mark.parametrize(("topic", "works"), [("/camera/image_raw", False), ("/camera/image_raw/compressed", True)])
def test_without_a_converter_raw_images_are_refused_at_configure(monkeypatch, capfd, topic, works):
    """Not at each image: cv_bridge under numpy 2, and a robot that never replays a bag."""
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    monkeypatch.setitem(sys.modules, "rosbags.image", None)
    with node_of_this_process(node__topics=[topic]) as node:
        assert (node.trigger_configure() == TransitionCallbackReturn.SUCCESS) is works
    assert ("pip install rosbags-image" in capfd.readouterr().err) is not works
