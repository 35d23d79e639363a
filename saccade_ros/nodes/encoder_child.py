"""Encoder node as the child of a process that it does not outlive: `python -m saccade_ros.nodes.encoder_child PID ...`.

PID is the parent's, and the rest are the node's own arguments.
"""

import sys

from saccade_ros.nodes.child import end_with_parent
from saccade_ros.nodes.entry import encoder_node

if __name__ == "__main__":
    end_with_parent()
    sys.exit(encoder_node())
