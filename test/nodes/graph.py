"""A real graph for the node's tests: the node in its own process, a client here, Fast DDS between."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from scenes import PERIOD_NS
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from saccade_ros.frames import Picture
from saccade_ros.msg import Embedding, EncoderInfo, NoveltyEvent
from saccade_ros.nodes.conversions import ns_to_stamp

TIMEOUT_S = 60.0
# Above 100 the ports of many participants would run into the system's ephemeral range.
_domains = itertools.cycle(range(1 + os.getpid() % 40, 101))


def next_domain() -> int:
    """A domain of its own for a test's graph."""
    return next(_domains)


FAST = {"encoder.model": "tiny", "encoder.window": 3, "stream.fps": 0.0, "backend.threads": 1}
FAST |= {"tokens.select": "all"}  # the gate decides alone, as in tiny_config
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def raw_image(picture: Picture, stamp_ns: int, frame_id: str = "camera") -> Image:
    height, width, _ = picture.shape
    image = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    image.header.stamp, image.header.frame_id = ns_to_stamp(stamp_ns), frame_id
    image.data = picture.tobytes()
    return image


class Graph(AbstractContextManager["Graph"]):
    """Starts the encoder node with these parameters and talks to it; nothing outlives the `with` block.

    Its subscriptions are `reliable` unless told otherwise: a best effort one may lose an image that a test waits for.
    `faults` are armed in the node (SACCADE_FAULTS).
    """

    def __init__(
        self, name: str = "saccade_encoder", reliable: bool = True, faults: str = "", **parameters: object
    ) -> None:
        self.name, self.faults, self.domain_id = name, faults, next_domain()
        self._parameters = {**FAST, **{key.replace("__", "."): value for key, value in parameters.items()}}
        for topic in self._parameters.get("node.topics", ["/camera/image_raw"]) if reliable else ():
            self._parameters[f"qos_overrides.{topic}.subscription.reliability"] = "reliable"
            self._parameters[f"qos_overrides.{topic}.subscription.depth"] = 100
        self.embeddings: list[Embedding] = []
        self.infos: list[EncoderInfo] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.events: list[NoveltyEvent] = []

    def __enter__(self) -> "Graph":
        self.context = Context()
        rclpy.init(context=self.context, domain_id=self.domain_id)
        self.node = Node("test_client", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.node.create_subscription(Embedding, "/saccade/embedding", self.embeddings.append, 100)
        self.node.create_subscription(EncoderInfo, f"/{self.name}/info", self.infos.append, LATCHED)
        self.node.create_subscription(NoveltyEvent, f"/{self.name}/event", self.events.append, 10)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self._publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        self.process = self.start()
        return self

    def start(self) -> subprocess.Popen[str]:
        return start_node(self._parameters, self.domain_id, self.name, self.faults)

    def __exit__(self, *exc: object) -> None:
        stop(self.process)
        self.log = self.process.stdout.read()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def wait_for(self, what: Callable[[], Any], said: str, timeout_s: float = TIMEOUT_S) -> Any:
        """Spin until `what` is true; return it."""
        deadline = time.monotonic() + timeout_s
        while not (value := what()):
            assert self.process.poll() is None, f"the node died waiting for {said}:\n{self.process.stdout.read()}"
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {said} within {timeout_s} s")
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def spin(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def publisher(self, topic: str = "/camera/image_raw") -> Any:
        """A publisher that the node has found."""
        if topic not in self._publishers:
            kind = CompressedImage if topic.endswith("/compressed") else Image
            self._publishers[topic] = self.node.create_publisher(kind, topic, 100)
        publisher = self._publishers[topic]
        self.wait_for(lambda: publisher.get_subscription_count() > 0, f"subscription to {topic}")
        return publisher

    def watch(self, topic: str) -> list[Image]:
        """Pictures of the node's from now on, as a viewer sees them."""
        seen: list[Image] = []
        self.node.create_subscription(Image, f"/{self.name}/{topic}", seen.append, qos_profile_sensor_data)
        self.wait_for(lambda: self.node.count_publishers(f"/{self.name}/{topic}"), f"publisher of {topic}")
        self.spin(1.0)  # until the node has discovered this subscription
        return seen

    def show(self, pictures: list[Picture], start_ns: int = 10**9, **where: Any) -> list[Embedding]:
        """Publish pictures at 25 Hz stamps, as fast as the node takes them; return the embeddings they made."""
        publisher, before = self.publisher(where.pop("topic", "/camera/image_raw")), len(self.embeddings)
        for i, picture in enumerate(pictures):
            publisher.publish(raw_image(picture, start_ns + i * PERIOD_NS, **where))
            if i % 2:  # the tubelet is complete: wait, so that none overflows
                expected = before + i // 2 + 1
                self.wait_for(lambda n=expected: len(self.embeddings) >= n, f"embedding {expected}")
        return self.embeddings[before:]

    def call(self, kind: Any, service: str, request: Any, timeout_s: float = TIMEOUT_S) -> Any:
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, f"/{self.name}/{service}")
            self._await_discovery()
        client = self._clients[service]
        self.wait_for(client.service_is_ready, f"service {service}")
        future = client.call_async(request)
        self.wait_for(future.done, f"answer of {service}", timeout_s)
        return future.result()

    def _await_discovery(self) -> None:
        """Wait until the node knows the clients made so far, in whose order it learns of them: else an answer is lost.

        One more client is made, and asks until it is answered.
        """
        probe = self.node.create_client(GetState, f"/{self.name}/get_state")
        self.wait_for(probe.service_is_ready, "service get_state")
        answers: list[Any] = []

        def is_known() -> bool:
            answers.append(probe.call_async(GetState.Request()))
            self.spin(0.1)
            return any(answer.done() for answer in answers)

        self.wait_for(is_known, "answer of get_state")
        self.node.destroy_client(probe)

    def state(self) -> str:
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def change_state(self, transition: str | int) -> bool:
        """By label, or by id as nav2's lifecycle manager does it."""
        request = ChangeState.Request()
        if isinstance(transition, int):
            request.transition.id = transition
        else:
            request.transition.label = transition
        return self.call(ChangeState, "change_state", request).success

    def set_parameter(self, name: str, value: object) -> Any:
        message = Parameter(name, value=value).to_parameter_msg()
        return self.call(SetParameters, "set_parameters", SetParameters.Request(parameters=[message])).results[0]

    def describe(self, name: str) -> Any:
        return self.call(
            DescribeParameters, "describe_parameters", DescribeParameters.Request(names=[name])
        ).descriptors[0]

    def reset(self) -> Any:
        return self.call(Trigger, "reset", Trigger.Request())

    def wait_active(self) -> None:
        self.wait_for(lambda: self.infos, "latched info")
        self.wait_state("active")

    def wait_state(self, state: str) -> None:
        self.wait_for(lambda: self.state() == state, f"state {state}")

    def counts(self, camera: int = 0) -> dict[str, str]:
        """The next diagnostics of a camera, as a dict; status and message are in it."""
        before = len(self.diagnostics)
        self.wait_for(lambda: len(self.diagnostics) > before, "diagnostics")
        return status_values(self.diagnostics[-1], camera)

    def counts_once(
        self, settled: Callable[[dict[str, str]], bool], said: str, since: int | None = None
    ) -> dict[str, str]:
        """The first diagnostics of which `settled` is true, of those from now on or from number `since` on."""
        first = len(self.diagnostics) if since is None else since
        return self.wait_for(
            lambda: next((c for c in map(status_values, self.diagnostics[first:]) if settled(c)), None), said
        )


def status_values(diagnostics: DiagnosticArray, camera: int = 0) -> dict[str, str]:
    status = diagnostics.status[camera]
    values = {pair.key: pair.value for pair in status.values}
    return {**values, "level": str(status.level[0]), "message": status.message, "name": status.name}


def drops(counts: dict[str, str]) -> dict[str, int]:
    """Dropped frames by cause."""
    prefix = "frames_dropped."
    return {key.removeprefix(prefix): int(value) for key, value in counts.items() if key.startswith(prefix)}


def start_node(
    parameters: dict[str, object], domain_id: int, name: str = "saccade_encoder", faults: str = ""
) -> subprocess.Popen[str]:
    """The node as its own process; stdout and stderr are in `.stdout`."""
    settings = [part for key, value in parameters.items() for part in ("-p", f"{key}:={as_yaml(value)}")]
    command = [sys.executable, "-m", "saccade_ros.nodes.encoder_node"]
    return subprocess.Popen(
        [*command, "--ros-args", "-r", f"__node:={name}", *settings],
        env={**os.environ, "ROS_DOMAIN_ID": str(domain_id), "SACCADE_FAULTS": faults},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def as_yaml(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def stop(process: subprocess.Popen[str], how: signal.Signals = signal.SIGINT) -> int:
    """End a node as a person would; kill it only if it does not obey."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        return process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"the node ignored {how.name}:\n{process.stdout.read()}") from None


def jpeg(picture: Picture, stamp_ns: int, cut: float = 1.0) -> CompressedImage:
    import cv2

    data = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
    image = CompressedImage(format="rgb8; jpeg compressed bgr8", data=data[: int(len(data) * cut)])
    image.header.stamp, image.header.frame_id = ns_to_stamp(stamp_ns), "camera"
    return image


def vectors(embeddings: list[Embedding]) -> np.ndarray:
    return np.stack([np.asarray(e.vector, np.float32) for e in embeddings])


SMALL = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "crop_size": 64}
SMALL |= {"pred_hidden_size": 16, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 1, "num_pooler_layers": 1}


def save_checkpoint(folder: Path, poison: bool = False) -> Path:
    """A small V-JEPA 2 in transformers' format, optionally with a NaN in it."""
    from transformers import VJEPA2Config, VJEPA2Model

    model = VJEPA2Model(VJEPA2Config(**SMALL))
    if poison:
        model.encoder.layer[0].mlp.fc1.weight.data[0, 0] = float("nan")
    model.save_pretrained(folder)
    return folder


def save_classifier(folder: Path, labels: tuple[str, ...]) -> Path:
    """The same with an attentive probe."""
    from transformers import VJEPA2Config, VJEPA2ForVideoClassification

    VJEPA2ForVideoClassification(VJEPA2Config(**SMALL, id2label=dict(enumerate(labels)))).save_pretrained(folder)
    return folder


def save_adapter(model: Path, file: Path) -> None:
    """A random causal adapter for a checkpoint."""
    import torch

    from saccade_ros.encoder.adapter import Adapter, target_layers
    from saccade_ros.encoder.weights import load_encoder

    loaded = load_encoder(str(model), 1)
    tensors = {}
    for name, linear in target_layers(loaded.encoder).items():
        tensors |= {f"{name}.down": torch.randn(2, linear.in_features)}
        tensors |= {f"{name}.up": torch.randn(linear.out_features, 2) * 0.01}
    Adapter(loaded.sha256, 2, 2.0, tensors).save(file)
