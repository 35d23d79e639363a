"""The bond with a lifecycle manager, where bondpy is installed: from activation to deactivation, or death."""

import signal
import sys
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from graph import Graph

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("ending", ["deactivate", "death"])
def test_manager_notices_that_the_node_ends(ending):
    bondpy = pytest.importorskip("bondpy.bondpy", reason="bondpy is on robots, not in the registries")
    with Graph(node__autostart=False) as graph:
        assert graph.change_state("configure")
        bond = bondpy.Bond(graph.node, "bond", "saccade_encoder")  # as nav2's manager makes it
        bond.start()
        assert graph.change_state("activate")
        formed = []
        bond.set_formed_callback(lambda: formed.append(True))
        graph.wait_for(lambda: formed or bond.sm.getState().getName() == "SM.Alive", "the bond", 10.0)
        graph.spin(5.0)  # longer than a heartbeat may be late
        assert not bond.is_broken()
        began_s = time.monotonic()
        if ending == "deactivate":
            assert graph.change_state("deactivate")
            graph.wait_for(bond.is_broken, "the bond's end", 10.0)
            assert graph.state() == "inactive"
        else:
            graph.process.send_signal(signal.SIGKILL)
            graph.process.wait()
            while not bond.is_broken() and time.monotonic() < began_s + 10.0:
                graph.spin(0.1)
        assert bond.is_broken()
        assert time.monotonic() - began_s < 10.0
        bond.shutdown()


def test_without_bondpy_there_is_none(monkeypatch):
    from saccade_ros.nodes.bond import NoBond, form_bond

    monkeypatch.setitem(sys.modules, "bondpy.bondpy", None)
    assert isinstance(form_bond(None), NoBond)
