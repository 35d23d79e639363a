#!/usr/bin/env python3
"""Encoder node: image topics in, saccade_ros/Embedding out, as a lifecycle node.

Everything that can fail (weights, memory, a first step) happens in configure; activating only lets images in.
"""

if __name__ == "__main__":  # signals are attended to before the imports
    from saccade_ros.nodes.entry import encoder_node

    raise SystemExit(encoder_node())

import functools
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from saccade_ros import default_model
from saccade_ros.backends.base import EncoderInfo
from saccade_ros.config import Config, ConfigError, GateConfig, TokensConfig
from saccade_ros.faults import VARIABLE as FAULTS_VARIABLE
from saccade_ros.faults import arm_from_environment, strike
from saccade_ros.frames import EmbeddingResult, Frame, Tubelet
from saccade_ros.msg import Embedding, NoveltyEvent
from saccade_ros.msg import EncoderInfo as EncoderInfoMessage
from saccade_ros.nodes.bond import Bond, NoBond, form_bond
from saccade_ros.nodes.conversions import (
    embedding_message,
    event_message,
    find_converter,
    info_message,
    stamp_to_ns,
)
from saccade_ros.nodes.diagnostics import StreamMonitor
from saccade_ros.nodes.image_topic import ImageTopic, type_by_name
from saccade_ros.nodes.lifecycle import AnsweringLifecycleNode, Background, transition
from saccade_ros.nodes.parameters import (
    changed_section,
    declare_parameters,
    read_config,
    refuse_bad_values,
    refuse_unknown_parameters,
)
from saccade_ros.nodes.ros_arguments import ros_refusals
from saccade_ros.nodes.stopping import StopSignals, end_process
from saccade_ros.nodes.viewers import ViewerTopics
from saccade_ros.nodes.worker import EncodeWorker
from saccade_ros.pipeline import Pipeline, Stream
from saccade_ros.recordings.source import IMAGE
from saccade_ros.vision.images import MalformedImage, convert_with_rosbags
from saccade_ros.vision.ledger import LateTubelet

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)
EMBEDDINGS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
EVENTS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
DIAGNOSTICS_PERIOD_S = 1.0
WARN_INTERVAL_S = 5.0


class EncoderNode(AnsweringLifecycleNode):
    """Lifecycle node of the encoder; docs/node.md lists its topics, parameters and services.

    Raises:
        ConfigError: a parameter given at start has the wrong type or is out of range, or ROS refuses its name.
    """

    def __init__(self, **node_options: Any) -> None:
        with ros_refusals():
            super().__init__("saccade_encoder", **node_options)
        refuse_unknown_parameters(self)
        declare_parameters(self, note="read at configure: set it while the node is unconfigured")
        self._loading: Background[Loaded] | None = None
        self._worker: EncodeWorker | None = None
        self._streams: list[Stream] = []
        self._topics: list[ImageTopic] = []
        self._monitors: list[StreamMonitor] = []
        self._active = False
        self._bond: Bond = NoBond()
        self._next_warning_s: dict[tuple[str, str], float] = {}
        self._destroy: list[Callable[[], Any]] = []  # undoes configure, last first
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.add_post_set_parameters_callback(self._after_set_parameters)

    # Lifecycle

    async def start(self) -> None:
        """Configure, and activate if that succeeded."""
        if await self.change_state(Transition.TRANSITION_CONFIGURE):
            await self.change_state(Transition.TRANSITION_ACTIVATE)

    async def prepare(self, transition_id: int) -> None:
        """Await the model before configure, and the tubelets in hand before whatever ends the output."""
        if transition_id == Transition.TRANSITION_CONFIGURE:
            self._loading = self.run_aside(self._load)
            await self._loading.finished
        elif self._worker is not None and transition_id != Transition.TRANSITION_ACTIVATE:
            await self.run_aside(self._worker.pause).finished

    @transition
    def on_configure(self, state: LifecycleState) -> None:
        """Load the model, take one step, and create every entity."""
        loading, self._loading = self._loading or self.run_aside(self._load), None
        try:
            self._open(loading.result())
        except BaseException:  # undone, whatever it is, and passed on
            self.release()
            raise

    @transition
    def on_activate(self, state: LifecycleState) -> None:
        """Start taking images."""
        super().on_activate(state)
        self._active = True
        self._watch_streams()
        self._expect_worker().resume()
        self._bond = form_bond(self)

    @transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Stop taking images, publish the tubelet in hand, and report the final counts."""
        self._bond.shutdown()
        self._expect_worker().pause()
        self._active = False
        self._publish_diagnostics()
        super().on_deactivate(state)

    @transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Release the model and every entity."""
        self.release()

    @transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Release the model and every entity."""
        self.release()

    @transition
    def on_error(self, state: LifecycleState) -> None:
        """Release everything; the node is unconfigured and can be configured again."""
        self.release()

    def _load(self) -> "Loaded":
        """Do what takes long, on any thread: load the model, take one step, open the streams."""
        config, started_s = read_config(self), time.monotonic()
        topics = self._image_topics(config)
        self.get_logger().info(f"loading {config.encoder.model} ...")
        pipeline = Pipeline(config, warn=self.get_logger().warning)
        pipeline.warm_up()
        raw = any(type_by_name(topic) == IMAGE for topic in topics)
        convert, converter = find_converter() if raw else (convert_with_rosbags, "OpenCV")
        streams = [pipeline.open_stream(topic, convert) for topic in topics]
        return Loaded(config, pipeline.backend.info, streams, converter, time.monotonic() - started_s)

    def _open(self, loaded: "Loaded") -> None:
        """Create every entity, and the worker between them."""
        self._config, self._info, self._streams, converter, seconds = loaded
        config, info, topics = self._config, self._info, [stream.name for stream in self._streams]
        if info.weights_random:
            self.get_logger().warning(f"{info.weights}: the embeddings mean nothing; give encoder.model a checkpoint")
        if advice := default_model.advice(info.weights):
            self.get_logger().info(advice)
        self._create_publishers(info.encoder_id)
        self._publish_info()
        limit_s = config.node.max_latency_s or math.inf
        self._worker = EncodeWorker(self._streams, self._publish, self._report, limit_s)
        self._topics = [self._subscribe(stream) for stream in self._streams]
        self._watch_streams()
        self.get_logger().info(info.choice)
        self.get_logger().info(
            f"{info.encoder_id} on {info.device} in {seconds:.1f} s; images by {converter}; "
            f"cache {info.cache_bytes / 1e6:.0f} MB per stream; {', '.join(topics)} -> {self._publisher.topic_name}"
        )

    def _create_publishers(self, encoder_id: str) -> None:
        self._encoder_id = encoder_id
        output_topic = self._resolve("node.output_topic", self._config.node.output_topic)
        self._publisher = self.create_lifecycle_publisher(Embedding, output_topic, EMBEDDINGS)
        self._event_publisher = self.create_lifecycle_publisher(NoveltyEvent, "~/event", EVENTS)
        self._viewers = ViewerTopics(self)
        self._info_publisher = self.create_publisher(EncoderInfoMessage, "~/info", LATCHED)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        service = self.create_service(Trigger, "~/reset", self._on_reset)
        # A steady clock: under use_sim_time the node's own stands still until /clock comes.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        timer = self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady)
        self._destroy += [
            lambda: self.destroy_lifecycle_publisher(self._publisher),
            lambda: self.destroy_lifecycle_publisher(self._event_publisher),
            self._viewers.close,
            lambda: self.destroy_publisher(self._info_publisher),
            lambda: self.destroy_publisher(self._diagnostics_publisher),
            lambda: self.destroy_service(service),
            lambda: self.destroy_timer(timer),
        ]

    def _image_topics(self, config: Config) -> list[str]:
        topics = [self._resolve("node.topics", topic) for topic in config.node.topics]
        if len(set(topics)) < len(topics):
            raise ConfigError(f"node.topics are, resolved, {', '.join(topics)}: name each topic once")
        return topics

    def _resolve(self, parameter: str, topic: str) -> str:
        try:
            return str(self.resolve_topic_name(topic))
        except (ValueError, RuntimeError) as invalid:
            why = str(invalid).partition(", at ")[0].removeprefix("failed to resolve name: ")
            raise ConfigError(
                f"{parameter} has {topic!r}, which is no topic name ({why}): use letters, digits, _ and /, "
                "as in /camera/image_raw"
            ) from invalid

    def _subscribe(self, stream: Stream) -> ImageTopic:
        topic = ImageTopic(self, stream.name, stream.ledger, functools.partial(self._on_image, stream))
        self._destroy.append(topic.close)
        return topic

    def _watch_streams(self) -> None:
        """Begin a new judgement of every stream."""
        worker, tell = self._expect_worker(), self.get_logger().warning
        pairs = zip(self._streams, self._topics, strict=True)
        self._monitors = [StreamMonitor(stream, topic, worker, self._config, tell) for stream, topic in pairs]

    def release(self) -> None:
        """Undo configure, as far as it came. Cleanup, shutdown and errors all end here; may be called again."""
        self._active = False
        self._bond.shutdown()
        if self._worker is not None:  # first, as it publishes
            if not self._worker.close():
                self.get_logger().error("a step hangs, and is left behind: its memory is free once it ends, if ever")
            self._worker = None
        while self._destroy:
            self._destroy.pop()()
        self._streams, self._topics, self._monitors = [], [], []  # with them goes the model

    def _expect_worker(self) -> EncodeWorker:
        if self._worker is None:
            raise RuntimeError("the node is not configured")
        return self._worker

    # Callbacks

    def _on_image(self, stream: Stream, message: Any) -> None:
        header = message.header
        try:
            self._expect_worker().offer(stream, Frame(message, stamp_to_ns(header.stamp), header.frame_id))
        except MalformedImage as malformed:
            self._report(stream, malformed)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._expect_worker().reset()
        response.success = True
        response.message = f"{len(self._streams)} streams start afresh with their next tubelet"
        return response

    def _on_set_parameters(self, parameters: list[Parameter]) -> Any:
        return refuse_bad_values(self, parameters, live_only=self.state not in ("unconfigured", "finalized"))

    def _after_set_parameters(self, parameters: list[Parameter]) -> None:
        if self._worker is None:  # they are read at configure, which itself declares overrides of QoS
            return
        gate = changed_section(self, GateConfig, parameters)
        tokens = changed_section(self, TokensConfig, parameters)
        self._config = replace(self._config, gate=gate, tokens=tokens)
        for stream in self._streams:
            stream.set_gate(gate)
            stream.set_tokens(tokens)
        self._publish_info()

    def _publish_info(self) -> None:
        topics = [stream.name for stream in self._streams]
        self._info_publisher.publish(info_message(self._info, self._config, topics))

    def _publish_diagnostics(self) -> None:
        for topic in self._topics:
            topic.follow()
        now, node = self.get_clock().now(), self.get_fully_qualified_name()
        message = DiagnosticArray()
        message.header.stamp = now.to_msg()
        message.status = [m.status(node, self._encoder_id, self._active, now.nanoseconds) for m in self._monitors]
        self._diagnostics_publisher.publish(message)
        self._end_if_hung()

    def _end_if_hung(self) -> None:
        """End the process if a tubelet has been in hand for node.hang_exit_s: a step that hangs cannot be stopped."""
        worker, limit_s = self._expect_worker(), self._config.node.hang_exit_s or math.inf
        for stream in self._streams:
            if (busy_s := worker.in_hand_s(stream)) > limit_s:
                self.get_logger().fatal(
                    f"{stream.name}: one tubelet has been in the encoder's hands for {busy_s:.1f} s, longer than "
                    f"node.hang_exit_s ({limit_s:g} s): the process ends with status 1, to be started again"
                )
                end_process(1)

    # On the worker's thread

    def _publish(self, stream: Stream, tubelet: Tubelet, result: EmbeddingResult) -> None:
        strike("publish")
        header = tubelet.newer.image.header
        message = embedding_message(
            result,
            header=header,
            stream=stream.name,
            encoder_id=self._encoder_id,
            normalized=self._config.encoder.normalize,
            sequence=stream.published,
            frames_dropped=stream.ledger.dropped_total,
        )
        message.total_ms = (time.monotonic() - tubelet.newer.received_s) * 1e3
        self._publisher.publish(message)
        try:
            self._show(stream, tubelet, result)
        except BaseException as failed:  # the embedding is out and counts as published, whatever becomes of the rest
            self._report(stream, failed)

    def _show(self, stream: Stream, tubelet: Tubelet, result: EmbeddingResult) -> None:
        """Publish an event, and pictures of novelty and plan."""
        least, header = self.get_parameter("gate.event_change").value, tubelet.newer.image.header
        if result.onset:
            part = least * self._config.gate.hysteresis
            self._event_publisher.publish(event_message(result, header, stream.name, self._encoder_id, part))
        self._viewers.publish(stream, tubelet, result, least)

    def _report(self, stream: Stream, trouble: BaseException) -> None:
        """Warn about a lost tubelet or image, once per interval for each stream and cause; all are counted."""
        if not self.context.ok():  # ROS has ended under the worker: what fails now needs no report
            return
        cause, detail = "encoder_error", "".join(traceback.format_exception(trouble))
        if isinstance(trouble, MalformedImage):
            cause, detail = trouble.cause, str(trouble)
        elif isinstance(trouble, LateTubelet):
            cause, detail = "late", str(trouble)
        if self._may_tell(stream, cause):
            self.get_logger().warning(f"{stream.name}: {cause}: {detail}")

    def _may_tell(self, stream: Stream, cause: str) -> bool:
        """True once per interval for each stream and cause."""
        now_s = time.monotonic()
        if now_s < self._next_warning_s.get((stream.name, cause), 0.0):
            return False
        self._next_warning_s[stream.name, cause] = now_s + WARN_INTERVAL_S
        return True


class Loaded(NamedTuple):
    """Result of loading: settings, model and streams, the name of the image converter, and the seconds it took."""

    config: Config
    info: EncoderInfo
    streams: list[Stream]
    converter: str
    seconds: float


def spin(node: EncoderNode, executor: SingleThreadedExecutor, signals: StopSignals) -> None:
    """Run until a signal is received. An exception in a callback is logged, not the end."""
    signals.wake = lambda: executor.create_task(lambda: None)  # something to do, so that spin_once returns
    while rclpy.ok() and not signals.received.is_set():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            return
        except Exception:  # a defect; the node must live
            node.get_logger().error(f"a callback failed; going on:\n{traceback.format_exc()}")


def main(signals: StopSignals, args: list[str] | None = None) -> int:
    """Run the node until a signal ends it; entry.py attends to the signals."""
    try:
        with ros_refusals():
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        faults = arm_from_environment()
        node = EncoderNode()
    except ConfigError as refused:
        rclpy.logging.get_logger("saccade_encoder").fatal(str(refused))
        rclpy.try_shutdown()
        return 1
    if faults:
        node.get_logger().warning(f"{FAULTS_VARIABLE} makes this node fail on purpose: {faults}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    if node.get_parameter("node.autostart").value:
        executor.create_task(node.start)
    spin(node, executor, signals)
    node.release()
    node.destroy_node()
    rclpy.try_shutdown()
    end_process()
