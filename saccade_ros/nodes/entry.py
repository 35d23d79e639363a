"""Entry points of the nodes: each attends to signals first, and then imports its node, which takes a second or more."""

import signal

from saccade_ros.nodes.stopping import SIGNALS, StopSignals, report_crashes


def encoder_node() -> int:
    """Run the encoder node; a signal ends it with exit status 0 from now on."""
    report_crashes()
    signals = StopSignals()
    from saccade_ros.nodes.encoder_node import main

    return main(signals)


def export_node() -> int:
    """Run the export node; a signal waits until it is known what it ends, as the exit status depends on that."""
    report_crashes()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    from saccade_ros.nodes.export_node import main

    return main()


def replay_node() -> int:
    """Run the replay node; a signal waits until the node can tidy up and say so."""
    report_crashes()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    from saccade_ros.nodes.replay_node import main

    return main()
