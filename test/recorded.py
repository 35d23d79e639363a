"""Small videos and bags drawn here, whose every frame can be told from the others; for tests of recordings."""

from dataclasses import replace

import av
import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import Stores, get_typestore

from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import COMPRESSED, IMAGE

WIDTH, HEIGHT, FRAMES, FPS = 96, 64, 24, 20
PERIOD_NS = 10**9 // FPS
TYPES = get_typestore(Stores.ROS2_JAZZY)
_ZERO = QosTime(0, 0)
BEST_EFFORT = Qos(
    QosHistory.KEEP_LAST,
    5,
    QosReliability.BEST_EFFORT,
    QosDurability.VOLATILE,
    _ZERO,
    _ZERO,
    QosLiveliness.AUTOMATIC,
    _ZERO,
    False,
)


def picture(index):
    """A square that moves right over a slope; unlike after a rotation or with red and blue swapped."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = np.linspace(0, 200, WIDTH, dtype=np.uint8)
    image[20:36, 2 * index : 2 * index + 16] = (250, 240, 30)
    return image


def write_video(path, pts=range(FRAMES), codec="mpeg4", container=None, **options):
    with av.open(str(path), "w", format=container, options=options) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.bit_rate = WIDTH, HEIGHT, 4_000_000
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index, time in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def image_of(types, topic_type, index, data=b"", **header):
    """A message of `types`; `header` takes the sequence number that ROS 1 wants."""
    time = types.types["builtin_interfaces/msg/Time"](sec=7, nanosec=index)
    head = types.types["std_msgs/msg/Header"](stamp=time, frame_id="optical", **header)
    pixels = np.frombuffer(data, np.uint8) if data else np.full(12, index, np.uint8)
    if topic_type == COMPRESSED:
        return types.types[COMPRESSED](header=head, format="jpeg", data=pixels)
    return types.types[IMAGE](header=head, height=2, width=2, encoding="rgb8", is_bigendian=0, step=6, data=pixels)


def record(path, topics, plugin=StoragePlugin.SQLITE3, count=6, qos=()):
    """A rosbag2 with `count` messages on each topic; topics maps names to types."""
    with Rosbag2Writer(path, version=9, storage_plugin=plugin) as writer:
        for topic, kind in topics.items():
            connection = writer.add_connection(topic, kind, typestore=TYPES, offered_qos_profiles=qos)
            for index in range(count):
                message = TYPES.types["std_msgs/msg/Bool"](data=True)
                if kind in (IMAGE, COMPRESSED):
                    message = image_of(TYPES, kind, index)
                writer.write(connection, 100 + index, TYPES.serialize_cdr(message, kind))
    return path


def read(path, topic=None):
    with open_source(path, topic) as source:
        return list(source)


def record_stamped(path, stamps_ns, **fields):
    """A rosbag2 of images on /camera with these stamps; `fields` give each image's further fields by its place."""
    with Rosbag2Writer(path, version=9) as writer:
        camera = writer.add_connection("/camera", IMAGE, typestore=TYPES)
        for place, stamp_ns in enumerate(stamps_ns):
            image, (sec, nanosec) = image_of(TYPES, IMAGE, 0), divmod(stamp_ns, 10**9)
            time = TYPES.types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
            changed = {name: value(place) for name, value in fields.items()}
            header = replace(image.header, stamp=time, frame_id=changed.pop("frame_id", "camera"))
            writer.write(camera, place, TYPES.serialize_cdr(replace(image, header=header, **changed), IMAGE))
    return path
