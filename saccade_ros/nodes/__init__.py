"""ROS 2 nodes, the only modules that import ROS. Thin: the work is done by the pipeline."""
