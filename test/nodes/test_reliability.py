"""What must not take the node along, over a real graph, with faults injected into the node's process.

docs/reliability.md lists each promise with its test. Limits in seconds are the promise's own, or stand for "at once"
beside a hang of many seconds: none measures speed.
"""

import math
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from graph import FAST, Graph, drops, raw_image, start_node, stop, vectors  # noqa: E402
from lifecycle_msgs.srv import GetAvailableTransitions  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402
from scenes import PERIOD_NS, textured  # noqa: E402

pytestmark = pytest.mark.ros

SCENES = [textured(seed=seed) for seed in range(4)]
FOREVER = 600  # seconds that an injected hang lasts, longer than any test
AT_ONCE_S = 1.0  # 0.1 s is the promise, and what is seen; the rest is for a busy machine
STOP_LIMIT_S = 2.0
DENSE = {"gate__enabled": False}  # so that every tubelet is a step


def publish(graph: Graph, count: int, first: int = 0) -> None:
    publisher = graph.publisher()
    for i in range(first, first + count):
        publisher.publish(raw_image(SCENES[i % 4], 10**9 + i * PERIOD_NS))


def settled(graph: Graph, received: int) -> dict[str, str]:
    """Counts once so many frames have come and none is pending."""
    return graph.counts_once(
        lambda c: (c["frames_received"], c["frames_pending"]) == (str(received), "0"), "all counted"
    )


def seconds_of(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def in_hand(graph: Graph) -> None:
    """Wait until the node has published one tubelet and holds the second one, in which it hangs."""
    graph.show(SCENES[:2])
    publish(graph, 2, first=2)
    graph.counts_once(lambda c: c["frames_received"] == "4" and c["frames_pending"] == "2", "a tubelet in hand")


# Hangs


def test_services_answer_at_once_while_a_step_hangs():
    with Graph(faults=f"step:hang:3:{FOREVER}", **DENSE) as graph:
        graph.wait_active()
        in_hand(graph)
        get = GetParameters.Request(names=["gate.tau"])
        available = GetAvailableTransitions.Request()
        calls = {
            "reset": graph.reset,
            "get_state": graph.state,
            "set_parameters": lambda: graph.set_parameter("gate.tau", 0.5),
            "get_parameters": lambda: graph.call(GetParameters, "get_parameters", get),
            "transitions": lambda: graph.call(GetAvailableTransitions, "get_available_transitions", available),
            "illegal": lambda: graph.change_state(1),
        }
        for call in calls.values():
            call()  # so that both have discovered each other
        slow = {name: seconds for name, call in calls.items() if (seconds := seconds_of(call)) > AT_ONCE_S}
    assert not slow


def test_services_answer_at_once_while_a_model_loads_and_a_second_configure_is_refused():
    with Graph(faults=f"load:hang:1:{FOREVER}") as graph:
        graph.wait_state("configuring")
        assert graph.change_state("configure") is False
        assert seconds_of(lambda: graph.change_state(1)) < AT_ONCE_S
        assert seconds_of(graph.state) < AT_ONCE_S
        assert not graph.set_parameter("encoder.window", 4).successful


def test_deactivate_waits_a_bounded_time_and_a_new_configure_brings_a_new_model():
    """The 1st step is the warm-up, the 3rd the one that hangs, the 4th the next warm-up."""
    with Graph(faults=f"step:hang:3:{FOREVER}", node__max_latency_s=1.0, **DENSE) as graph:
        graph.wait_active()
        in_hand(graph)
        graph.spin(2.5)  # the watchdog looks once a second
        assert seconds_of(lambda: graph.change_state("deactivate")) < 2.0 + AT_ONCE_S
        assert seconds_of(lambda: graph.change_state("cleanup")) < AT_ONCE_S
        assert graph.change_state("configure")
        assert graph.change_state("activate")
        before = len(graph.embeddings)
        assert len(graph.show(SCENES[:2], start_ns=10**12)) == 1
        assert before == 1
    assert "longer than node.max_latency_s (1 s)" in graph.log
    assert "a step hangs, and is left behind" in graph.log


def test_tubelet_that_hangs_longer_than_the_limit_ends_the_process():
    with Graph(faults=f"step:hang:3:{FOREVER}", node__hang_exit_s=0.5, **DENSE) as graph:
        graph.wait_active()
        graph.show(SCENES[:2])
        publish(graph, 2, first=2)
        assert graph.process.wait(timeout=20) == 1
    assert "longer than node.hang_exit_s (0.5 s): the process ends with status 1" in graph.log


def test_embedding_older_than_the_limit_is_not_published_and_the_node_goes_on():
    with Graph(faults="step:hang:3:1.5", node__max_latency_s=1.0, **DENSE) as graph:
        graph.wait_active()
        for pair in range(6):
            publish(graph, 2, first=2 * pair)
            counts = settled(graph, 2 * pair + 2)
    assert drops(counts) == {"late": 4}
    assert [e.tubelet_index for e in graph.embeddings] == [0, 2, 3, 5]
    assert "late: an embedding came 1." in graph.log


# Signals

STATES: dict[str, tuple[str, dict[str, object], Callable[[Graph], object]]] = {
    "unconfigured": ("", {"node__autostart": False}, lambda graph: graph.state()),
    "loading": (f"load:hang:1:{FOREVER}", {}, lambda graph: graph.state()),
    "warming up": (f"step:hang:1:{FOREVER}", {}, lambda graph: graph.state()),
    "active": ("", {}, lambda graph: graph.show(SCENES)),
    "hanging step": (f"step:hang:3:{FOREVER}", DENSE, in_hand),
    "hanging decoder": (f"decode:hang:3:{FOREVER}", DENSE, in_hand),
    "deactivating": (f"step:hang:3:{FOREVER}", DENSE, lambda graph: (in_hand(graph), begin_deactivate(graph))),
}


def begin_deactivate(graph: Graph) -> None:
    from lifecycle_msgs.srv import ChangeState

    request = ChangeState.Request()
    request.transition.label = "deactivate"
    client = graph.node.create_client(ChangeState, f"/{graph.name}/change_state")
    graph.wait_for(client.service_is_ready, "change_state")
    client.call_async(request)
    graph.spin(0.3)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
@pytest.mark.parametrize("state", STATES)
def test_signals_end_the_node_in_two_seconds_with_status_0_in_every_state(state, how):
    faults, parameters, reach = STATES[state]
    with Graph(faults=faults, **parameters) as graph:
        reach(graph)
        started = time.monotonic()
        graph.process.send_signal(how)
        graph.process.send_signal(how)  # a terminal and ros2 launch send it both
        assert graph.process.wait(timeout=20) == 0
        assert time.monotonic() - started < STOP_LIMIT_S
    assert "Traceback" not in graph.log


def test_finalized_node_ends_by_a_signal():
    with Graph() as graph:
        graph.wait_active()
        assert graph.change_state("shutdown")
        assert stop(graph.process, signal.SIGTERM) == 0


def test_signal_that_was_ignored_at_the_start_stays_ignored():
    """As after nohup, or in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Graph() as graph:
            graph.wait_active()
            graph.process.send_signal(signal.SIGINT)
            assert len(graph.show(SCENES)) == 2
            assert stop(graph.process, signal.SIGTERM) == 0
    finally:
        signal.signal(signal.SIGINT, before)


# Faults of every kind


@pytest.mark.parametrize(
    "faults",
    [
        "step:error:3",
        "step:memory:3",
        "step:exit:3",
        "output:nan:3",
        "decode:exit:5",
        "publish:error:3",
        "publish:exit:3",
    ],
)
def test_fault_costs_its_tubelet_is_an_error_and_the_node_recovers(faults):
    with Graph(faults=faults, **DENSE) as graph:
        graph.wait_active()
        for pair in range(12):
            publish(graph, 2, first=2 * pair)
            graph.spin(0.1)
        counts = settled(graph, 24)
        published = int(counts["tubelets_published"])
        graph.wait_for(lambda: len(graph.embeddings) >= published, "the last embedding")
        assert graph.state() == "active"
    assert drops(counts)["encoder_error"] > 0
    assert set(drops(counts)) <= {"encoder_error", "overflow"}  # an error costs time for its traceback
    assert sum(drops(counts).values()) + 2 * published == 24 == sum(drops(counts).values()) + int(counts["frames_used"])
    assert 4 <= published == len(graph.embeddings)
    assert np.isfinite(vectors(graph.embeddings)).all()
    assert any(status.level == b"\x02" for message in graph.diagnostics for status in message.status)


# Transitions by id

CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE, SHUTDOWN_UNCONFIGURED, SHUTDOWN_INACTIVE, SHUTDOWN_ACTIVE = range(1, 8)
LEGAL = {
    "unconfigured": {CONFIGURE, SHUTDOWN_UNCONFIGURED},
    "inactive": {ACTIVATE, CLEANUP, SHUTDOWN_INACTIVE},
    "active": {DEACTIVATE, SHUTDOWN_ACTIVE},
    "finalized": set(),
}
ALL_IDS = (*range(10), 10, 11, 12, 20, 30, 40, 50, 60, 61, 99, 255)  # those of the state machine's own use among them


def test_illegal_transition_by_id_gets_an_answer_in_every_state():
    with Graph(node__autostart=False) as graph:
        for state, leave in (("unconfigured", CONFIGURE), ("inactive", ACTIVATE), ("active", SHUTDOWN_ACTIVE)):
            assert graph.state() == state
            answers = {id_: graph.change_state(id_) for id_ in ALL_IDS if id_ not in LEGAL[state]}
            assert not any(answers.values())
            assert graph.state() == state
            assert graph.change_state(leave)
        assert not any(graph.change_state(id_) for id_ in ALL_IDS)
        assert graph.state() == "finalized"
    assert "transition 3 is refused: unconfigured, the node can do configure (1), shutdown (5)" in graph.log
    assert "Traceback" not in graph.log


@pytest.mark.parametrize("label", ["no_such_transition", "activate", "transition_success", "create", "destroy"])
def test_illegal_transition_by_label_gets_an_answer(label):
    with Graph(node__autostart=False) as graph:
        assert graph.change_state(label) is False
        assert graph.state() == "unconfigured"


def test_lifecycle_goes_round_by_id_as_a_manager_does_it():
    with Graph(node__autostart=False) as graph:
        for _ in range(3):
            for id_ in (CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP):
                assert graph.change_state(id_)
        assert graph.change_state(SHUTDOWN_UNCONFIGURED)


# Configure is mendable


def test_every_parameter_can_be_set_while_unconfigured_and_a_bad_start_mended():
    with Graph(encoder__model="no-such-model", reliable=False) as graph:
        graph.wait_state("unconfigured")
        good = {"encoder.model": "tiny", "encoder.window": 4, "node.topics": ["/other/image"], "backend.threads": 2}
        for name, value in good.items():
            assert graph.set_parameter(name, value).successful, name
        refused = graph.set_parameter("encoder.pooling", "median")
        assert (refused.successful, "choose one of newest" in refused.reason) == (False, True)
        assert graph.change_state("configure")
        refused = graph.set_parameter("encoder.window", 8)
        assert (refused.successful, "encoder.window is read at configure" in refused.reason) == (False, True)
        graph.wait_for(lambda: graph.infos, "info")
        assert (graph.infos[-1].window, graph.infos[-1].streams) == (4, ["/other/image"])
        assert graph.change_state("cleanup")
        assert graph.set_parameter("encoder.window", 2).successful
        assert graph.change_state("configure")
        graph.wait_for(lambda: graph.infos[-1].window == 2, "the new info")


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("gate.tua", "gate.tau"),
        ("stream.max_gap", "stream.max_gap_s"),
        ("encoder.lookback", "encoder."),
        ("gate.fps", "stream.fps"),
        ("node.topic", "node.topics"),
    ],
)
def test_unknown_parameter_of_our_sections_is_named_with_the_nearest(given, nearest):
    process = start_node({**FAST, given: 1}, domain_id=99)
    log, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{given} is no setting: did you mean {nearest}" in log


def test_parameters_of_others_are_let_be_and_a_likely_slip_is_warned_of():
    with Graph(other_node__rate=3.0, gates__tau=0.1) as graph:
        graph.wait_active()
    assert "other_node" not in graph.log
    assert "gates.tau is no setting: did you mean gate.tau?" in graph.log


def test_info_follows_live_changes():
    with Graph(tokens__select="ratio") as graph:
        graph.wait_active()
        assert graph.set_parameter("gate.tau", 0.7).successful
        graph.wait_for(lambda: math.isclose(graph.infos[-1].gate_tau, 0.7, rel_tol=1e-6), "info with the new tau")
        seen = len(graph.infos)
        assert not graph.set_parameter("gate.tau", -1.0).successful
        graph.spin(0.3)
        assert len(graph.infos) == seen


def test_reset_at_any_rate_does_not_stop_the_output():
    from std_srvs.srv import Trigger

    with Graph(**DENSE) as graph:
        graph.wait_active()
        graph.reset()
        client, publisher = graph.node.create_client(Trigger, f"/{graph.name}/reset"), graph.publisher()
        graph.wait_for(client.service_is_ready, "reset")
        for i in range(40):
            publisher.publish(raw_image(SCENES[i % 4], 10**9 + i * PERIOD_NS))
            for _ in range(8):
                client.call_async(Trigger.Request())
            graph.spin(0.03)
        # A reset may have overtaken the last frame, which then waits for its second.
        counts = graph.counts_once(
            lambda c: (c["frames_received"], c["frames_pending"]) in (("40", "0"), ("40", "1")), "all"
        )
        frames = 40 + int(counts["frames_pending"])
        for i in range(40, frames):
            publisher.publish(raw_image(SCENES[i % 4], 10**9 + i * PERIOD_NS))
        counts = settled(graph, frames)
    assert len(graph.embeddings) >= 10
    assert int(counts["frames_used"]) + sum(drops(counts).values()) == frames
