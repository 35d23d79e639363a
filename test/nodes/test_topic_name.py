"""What was recorded on any topic is played on one that ROS 2 allows."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2; `make test` brings it")

from saccade_ros.nodes.topic_name import playable_topic


@pytest.mark.parametrize("topic", ["/camera/image_raw", "/CAM_FRONT/image_rect_compressed", "/a", "/a__b/_c1"])
def test_a_name_that_ros_2_allows_is_kept(topic):
    assert playable_topic(topic) == topic


@pytest.mark.parametrize(
    ("topic", "played"),
    [
        ("/cam-left/image_raw", "/cam_left/image_raw"),
        ("/1/image", "/_1/image"),
        ("camera 1", "/camera_1"),
        ("//image/", "/image"),
        ("~/image", "/_/image"),
        ("/{robot}/image", "/_robot_/image"),
        ("/caméra/图", "/cam_ra/_"),
        ("image.raw:0", "/image_raw_0"),
    ],
)
def test_another_is_played_on_the_nearest(topic, played):
    assert playable_topic(topic) == played


@pytest.mark.parametrize("topic", ["", "/", "/" + 300 * "a"])
def test_a_name_without_a_near_one_is_refused_with_the_way_out(topic):
    with pytest.raises(ValueError, match=r"cannot be played over ROS 2 .* `saccade replay`"):
        playable_topic(topic)
