"""Bond with a lifecycle manager, such as nav2's, by which each notices that the other has died."""

from typing import Any, Protocol

from rclpy.node import Node

TOPIC = "bond"  # relative: the manager is in the node's namespace. These three are nav2's own.
HEARTBEAT_PERIOD_S = 0.1
HEARTBEAT_TIMEOUT_S = 4.0


class Bond(Protocol):
    """A bond, for as long as the node is active."""

    def shutdown(self) -> None:
        """Break it, and tell the other side. May be called again."""


class NoBond:
    """Bond of a node that is not active, or where bondpy is not installed."""

    def shutdown(self) -> None:
        """See Bond."""


class ManagedBond:
    """Bond made by bondpy, which destroys its subscription behind the node's back; the executor stumbles over that."""

    def __init__(self, node: Node, bond: Any) -> None:
        self._node, self._bond = node, bond

    def shutdown(self) -> None:
        """See Bond."""
        if not self._bond.is_shutdown:
            self._bond.shutdown()
            self._node.destroy_subscription(self._bond.sub)
            self._node.destroy_publisher(self._bond.pub)


def form_bond(node: Node) -> Bond:
    """Offer a bond under the node's name. Where no manager takes it up, it ends by itself after ten seconds."""
    try:
        from bondpy.bondpy import Bond as BondpyBond
    except ImportError:
        return NoBond()
    bond = BondpyBond(node, TOPIC, node.get_name())
    bond.heartbeat_period, bond.heartbeat_timeout = HEARTBEAT_PERIOD_S, HEARTBEAT_TIMEOUT_S
    bond.start()
    return ManagedBond(node, bond)
