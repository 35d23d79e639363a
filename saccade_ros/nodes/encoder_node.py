#!/usr/bin/env python3
"""Encoder node: image topics in, saccade_ros/Embedding out, as a lifecycle node.

Everything that can fail (weights, memory, a first step) happens in configure; activating only lets images in.
"""

import functools
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from saccade_ros import default_model
from saccade_ros.config import ConfigError, GateConfig, TokensConfig
from saccade_ros.frames import EmbeddingResult, Frame, Tubelet
from saccade_ros.msg import Embedding, EncoderInfo, NoveltyEvent
from saccade_ros.nodes.conversions import (
    computed_map_message,
    embedding_message,
    event_message,
    find_converter,
    info_message,
    novelty_map_message,
    overlay_message,
    stamp_to_ns,
)
from saccade_ros.nodes.diagnostics import StreamMonitor
from saccade_ros.nodes.parameters import changed_section, declare_parameters, read_config, refuse_bad_values
from saccade_ros.nodes.worker import EncodeWorker
from saccade_ros.pipeline import Pipeline, Stream
from saccade_ros.vision.images import MalformedImage, convert_with_rosbags

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)
EMBEDDINGS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
EVENTS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
DIAGNOSTICS_PERIOD_S = 1.0
WARN_INTERVAL_S = 5.0

Transition = Callable[["EncoderNode", LifecycleState], None]


def transition(on_event: Transition) -> Callable[["EncoderNode", LifecycleState], TransitionCallbackReturn]:
    """Turn an exception of a transition into a log entry and FAILURE, where rclpy goes to error processing."""

    @functools.wraps(on_event)
    def guarded(node: "EncoderNode", state: LifecycleState) -> TransitionCallbackReturn:
        """Run the transition; report SUCCESS or FAILURE."""
        try:
            on_event(node, state)
        except (
            ValueError,
            ArithmeticError,
            RuntimeError,
        ) as refused:  # ours, with the value and the remedy in the message
            node.get_logger().error(f"{on_event.__name__}: {refused}")
            node.get_logger().debug(traceback.format_exc())
            return TransitionCallbackReturn.FAILURE
        except Exception:  # a defect; the node must live to be told
            node.get_logger().error(f"{on_event.__name__} failed:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    return guarded


class EncoderNode(LifecycleNode):
    """Lifecycle node of the encoder; docs/node.md lists its topics, parameters and services.

    Raises:
        ConfigError: a parameter given at start has the wrong type or is out of range.
    """

    def __init__(self, **node_options: Any) -> None:
        super().__init__("saccade_encoder", **node_options)
        declare_parameters(self)
        self._worker: EncodeWorker | None = None
        self._streams: list[Stream] = []
        self._monitors: list[StreamMonitor] = []
        self._active = False
        self._next_warning_s: dict[tuple[str, str], float] = {}
        self._destroy: list[Callable[[], Any]] = []  # undoes configure, last first
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.add_post_set_parameters_callback(self._after_set_parameters)

    # Lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> None:
        """Load the model, take one step, and create every entity."""
        try:
            self._configure()
        except Exception:  # undone, whatever it is, and passed on
            self.release()
            raise

    @transition
    def on_activate(self, state: LifecycleState) -> None:
        """Start taking images."""
        super().on_activate(state)
        self._active = True
        self._monitors = [StreamMonitor(stream, self._config.stream.max_gap_s) for stream in self._streams]
        self._expect_worker().resume()

    @transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Stop taking images, publish the tubelet in hand, and report the final counts."""
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

    def _configure(self) -> None:
        self._config = config = read_config(self)
        started = time.monotonic()
        self.get_logger().info(f"loading {config.encoder.model} ...")
        pipeline = Pipeline(config, warn=self.get_logger().warning)
        info = pipeline.backend.info
        pipeline.warm_up()
        if info.weights_random:
            self.get_logger().warning(f"{info.weights}: the embeddings mean nothing; give encoder.model a checkpoint")
        if advice := default_model.advice(info.weights):
            self.get_logger().info(advice)
        topics = self._image_topics()
        raw = not all(_is_compressed(topic) for topic in topics)
        convert, converter = find_converter() if raw else (convert_with_rosbags, "OpenCV")
        self._streams = [pipeline.open_stream(topic, convert) for topic in topics]
        self._create_publishers(info.encoder_id)
        self._info_publisher.publish(info_message(info, config, topics))
        self._worker = EncodeWorker(self._streams, self._publish, self._report)
        for stream in self._streams:
            self._subscribe(stream)
        self._monitors = [StreamMonitor(stream, config.stream.max_gap_s) for stream in self._streams]
        self.get_logger().info(
            f"{info.encoder_id} on {info.device} in {time.monotonic() - started:.1f} s; images by {converter}; "
            f"cache {info.cache_bytes / 1e6:.0f} MB per stream; {', '.join(topics)} -> {self._publisher.topic_name}"
        )

    def _create_publishers(self, encoder_id: str) -> None:
        self._encoder_id = encoder_id
        output_topic = self._resolve("node.output_topic", self._config.node.output_topic)
        self._publisher = self.create_lifecycle_publisher(Embedding, output_topic, EMBEDDINGS)
        self._event_publisher = self.create_lifecycle_publisher(NoveltyEvent, "~/event", EVENTS)
        self._map_publisher = self.create_lifecycle_publisher(Image, "~/novelty_map", qos_profile_sensor_data)
        self._computed_publisher = self.create_lifecycle_publisher(Image, "~/computed_map", qos_profile_sensor_data)
        self._overlay_publisher = self.create_lifecycle_publisher(Image, "~/debug/image", qos_profile_sensor_data)
        self._info_publisher = self.create_publisher(EncoderInfo, "~/info", LATCHED)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        service = self.create_service(Trigger, "~/reset", self._on_reset)
        # A steady clock: under use_sim_time the node's own stands still until /clock comes.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        timer = self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady)
        self._destroy += [
            lambda: self.destroy_lifecycle_publisher(self._publisher),
            lambda: self.destroy_lifecycle_publisher(self._event_publisher),
            lambda: self.destroy_lifecycle_publisher(self._map_publisher),
            lambda: self.destroy_lifecycle_publisher(self._computed_publisher),
            lambda: self.destroy_lifecycle_publisher(self._overlay_publisher),
            lambda: self.destroy_publisher(self._info_publisher),
            lambda: self.destroy_publisher(self._diagnostics_publisher),
            lambda: self.destroy_service(service),
            lambda: self.destroy_timer(timer),
        ]

    def _image_topics(self) -> list[str]:
        topics = [self._resolve("node.topics", topic) for topic in self._config.node.topics]
        if len(set(topics)) < len(topics):
            raise ConfigError(f"node.topics are, resolved, {', '.join(topics)}: name each topic once")
        return topics

    def _resolve(self, parameter: str, topic: str) -> str:
        try:
            return str(self.resolve_topic_name(topic))
        except (ValueError, RuntimeError) as invalid:
            raise ConfigError(
                f"{parameter} has {topic!r}, which is no topic name: use letters, digits, _ and /, "
                "as in /camera/image_raw"
            ) from invalid

    def _subscribe(self, stream: Stream) -> None:
        subscription = self.create_subscription(
            CompressedImage if _is_compressed(stream.name) else Image,
            stream.name,
            functools.partial(self._on_image, stream),
            qos_profile_sensor_data,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=SubscriptionEventCallbacks(message_lost=functools.partial(self._on_lost, stream)),
        )
        self._destroy.append(lambda: self.destroy_subscription(subscription))

    def release(self) -> None:
        """Undo configure, as far as it came. Cleanup, shutdown and errors all end here; may be called again."""
        self._active = False
        if self._worker is not None:  # first, as it publishes
            self._worker.close()
            self._worker = None
        while self._destroy:
            self._destroy.pop()()
        self._streams, self._monitors = [], []  # with them goes the model

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

    def _on_lost(self, stream: Stream, lost: QoSMessageLostInfo) -> None:
        stream.ledger.lost_in_transport = lost.total_count

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._expect_worker().reset()
        response.success = True
        response.message = f"{len(self._streams)} streams start afresh with their next tubelet"
        return response

    def _on_set_parameters(self, parameters: list[Parameter]) -> Any:
        return refuse_bad_values(self, parameters)

    def _after_set_parameters(self, parameters: list[Parameter]) -> None:
        gate = changed_section(self, GateConfig, parameters)
        tokens = changed_section(self, TokensConfig, parameters)
        for stream in self._streams:
            stream.set_gate(gate)
            stream.set_tokens(tokens)

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [m.status(self._encoder_id, self._active) for m in self._monitors]
        self._diagnostics_publisher.publish(message)

    # On the worker's thread

    def _publish(self, stream: Stream, tubelet: Tubelet, result: EmbeddingResult) -> None:
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
        if result.onset:
            least = self.get_parameter("gate.event_change").value
            self._event_publisher.publish(event_message(result, header, stream.name, self._encoder_id, least))
        self._show(stream, tubelet, result)

    def _show(self, stream: Stream, tubelet: Tubelet, result: EmbeddingResult) -> None:
        """Publish pictures of novelty and plan to whoever subscribes; without subscribers they cost nothing."""
        header = tubelet.newer.image.header
        if result.patch_novelty is not None and self._map_publisher.get_subscription_count():
            self._map_publisher.publish(novelty_map_message(result, header))
        if self._computed_publisher.get_subscription_count():
            self._computed_publisher.publish(computed_map_message(result, header))
        if self._overlay_publisher.get_subscription_count():
            picture, least = stream.intake.decode(tubelet.newer), self.get_parameter("gate.event_change").value
            self._overlay_publisher.publish(overlay_message(result, picture, header, least))

    def _report(self, stream: Stream, trouble: Exception) -> None:
        """Warn about a lost tubelet or image, once per interval for each stream and cause; all are counted."""
        if not self.context.ok():  # a signal has ended ROS under the worker: what fails now needs no report
            return
        cause, detail = "encoder_error", "".join(traceback.format_exception(trouble))
        if isinstance(trouble, MalformedImage):
            cause, detail = trouble.cause, str(trouble)
        now_s = time.monotonic()
        if now_s < self._next_warning_s.get((stream.name, cause), 0.0):
            return
        self._next_warning_s[stream.name, cause] = now_s + WARN_INTERVAL_S
        self.get_logger().warning(f"{stream.name}: {cause}: {detail}")


def _is_compressed(topic: str) -> bool:
    return topic.endswith("/compressed")


def spin(node: EncoderNode) -> None:
    """Run until shutdown. An exception in a callback is logged, not the end: Jazzy raises for an illegal transition."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while rclpy.ok():
        try:
            executor.spin()
        except (KeyboardInterrupt, ExternalShutdownException):
            return
        except Exception:  # rclpy's own for illegal transitions, or a defect; the node must live
            node.get_logger().error(f"a callback failed; going on:\n{traceback.format_exc()}")


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run saccade_ros encoder_node`."""
    rclpy.init(args=args)
    try:
        node = EncoderNode()
    except ConfigError as refused:
        rclpy.logging.get_logger("saccade_encoder").fatal(str(refused))
        rclpy.try_shutdown()
        return 1
    try:
        if node.get_parameter("node.autostart").value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.release()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
