"""SROS2 policy of a running node: what it publishes, subscribes to, serves and calls, read off the graph.

    ros2 run saccade_ros security_policy /saccade_encoder > encoder.policy.xml
    ros2 security create_enclave KEYSTORE /saccade_encoder
    ros2 security create_permission KEYSTORE /saccade_encoder encoder.policy.xml

The node must be configured: it makes its topics then. config/encoder.policy.xml is that of the defaults.
"""

import sys
import time
from collections.abc import Iterable
from xml.etree import ElementTree

import rclpy
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from saccade_ros.config import ConfigError
from saccade_ros.nodes.ros_arguments import ros_refusals
from saccade_ros.terminal import forgiving_output, print_whole

WAIT_S = 10.0
SETTLE_S = 1.0  # in which the graph must not have changed: names come one by one


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Exit status 0 when the policy is printed, 1 if there is no such node."""
    arguments = sys.argv if arguments is None else arguments
    try:
        with ros_refusals():
            rclpy.init(args=arguments)
            observer = Node("saccade_security_policy", enable_rosout=False, start_parameter_services=False)
    except ConfigError as refused:
        print(f"security_policy: {refused}", file=sys.stderr)
        return 1
    name = (*remove_ros_args(arguments)[1:], "/saccade_encoder")[0]
    try:
        with forgiving_output():
            text = settled_policy(observer, name)
            if text is None:
                print(f"{name} is not there: name a running node, such as /saccade_encoder", file=sys.stderr)
                return 1
            print_whole(text)
            return 0
    finally:
        observer.destroy_node()
        rclpy.try_shutdown()


def settled_policy(observer: Node, name: str) -> str | None:
    """Read a node's policy once its part of the graph has stopped changing; None if there is no such node."""
    namespace, _, base = name.rpartition("/")
    deadline, text, since = time.monotonic() + WAIT_S, None, time.monotonic()
    while time.monotonic() < deadline and (text is None or time.monotonic() - since < SETTLE_S):
        time.sleep(0.1)
        if (base, namespace or "/") in observer.get_node_names_and_namespaces():
            before, text = text, policy_of(observer, base, namespace or "/")
            since = since if text == before else time.monotonic()
    return text


def policy_of(observer: Node, name: str, namespace: str) -> str:
    """Write the policy of a node as `observer` sees it now, as SROS2's schema 0.2.0 has it."""
    policy = ElementTree.Element("policy", version="0.2.0")
    enclaves = ElementTree.SubElement(policy, "enclaves")
    enclave = ElementTree.SubElement(enclaves, "enclave", path=f"{namespace.rstrip('/')}/{name}")
    profiles = ElementTree.SubElement(enclave, "profiles")
    profile = ElementTree.SubElement(profiles, "profile", ns=namespace, node=name)
    read = {
        ("services", "service", "reply"): observer.get_service_names_and_types_by_node,
        ("services", "service", "request"): observer.get_client_names_and_types_by_node,
        ("topics", "topic", "publish"): observer.get_publisher_names_and_types_by_node,
        ("topics", "topic", "subscribe"): observer.get_subscriber_names_and_types_by_node,
    }
    for (group, item, way), names_and_types in read.items():
        _allow(profile, group, item, way, (found for found, _ in names_and_types(name, namespace)))
    ElementTree.indent(policy)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(policy, encoding="unicode")}'


def _allow(profile: ElementTree.Element, group: str, item: str, way: str, names: Iterable[str]) -> None:
    if found := sorted(set(names)):
        allowed = ElementTree.SubElement(profile, group, {way: "ALLOW"})
        for name in found:
            ElementTree.SubElement(allowed, item).text = name


if __name__ == "__main__":
    sys.exit(main())
