"""The ROS 2 nodes: the only modules that import ROS. Thin; what they do is in the engine."""
