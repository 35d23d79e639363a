"""Encoder node as the child of a process that it does not outlive: `python -m saccade_ros.nodes.encoder_child PID ...`.

PID is the parent's, and the rest are the node's own arguments. Linux ends it with the parent, however that ends; there
is nothing that it would have to tidy up.
"""

import ctypes
import os
import signal
import sys

from saccade_ros.nodes.entry import encoder_node

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def end_with_parent(pid: int) -> None:
    """Ask Linux for SIGKILL when the parent has died; end at once if it has died already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != pid:
        sys.exit(1)


if __name__ == "__main__":
    end_with_parent(int(sys.argv.pop(1)))
    sys.exit(encoder_node())
