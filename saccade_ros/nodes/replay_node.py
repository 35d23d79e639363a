#!/usr/bin/env python3
"""Replay benchmark over a real ROS graph.

It starts the encoder node and a player as processes of their own, has a recording played into the encoder as --mode
says, receives the embeddings, and reports.

    ros2 run saccade_ros replay_node RECORDING --params config/demo.yaml --out report
    ros2 run saccade_ros replay_node RECORDING --mode peak --out report
"""

if __name__ == "__main__":  # signals are attended to before the imports
    from saccade_ros.nodes.entry import replay_node

    raise SystemExit(replay_node())

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rich.console import Console

from saccade_ros.cli_options import add_options, read_options
from saccade_ros.config import Config
from saccade_ros.knobs import knob
from saccade_ros.measure.machine import describe_machine
from saccade_ros.measure.progress import ProgressBar
from saccade_ros.measure.software import describe_gpus, describe_software
from saccade_ros.nodes.benchmark import BenchmarkRun
from saccade_ros.nodes.encoder_client import ReplayError, encoder_facts, encoder_process
from saccade_ros.nodes.playable import ALL, Playable, open_playable
from saccade_ros.nodes.player_client import PlayerClient, PlayerError, player_process
from saccade_ros.nodes.ros_arguments import ros_refusals
from saccade_ros.nodes.trial_node import CountingNode, TrialNode
from saccade_ros.params_file import load_config
from saccade_ros.pipeline import Pipeline
from saccade_ros.replay.command import ReplayOptions, outputs
from saccade_ros.replay.fidelity import Fidelity, measure_fidelity
from saccade_ros.replay.inprocess import thumbnails
from saccade_ros.replay.live import LiveView, trial_line
from saccade_ros.replay.modes import AS_RECORDED, EXTERNAL, PlayOptions
from saccade_ros.replay.recording import Fact, Recording, describe_parameters
from saccade_ros.replay.report import save_report
from saccade_ros.replay.tracks import pass_of
from saccade_ros.replay.trial import Trial
from saccade_ros.storage import check_file, sha256_of
from saccade_ros.terminal import EndedBySignal, ended_by_signals, forgiving_output
from saccade_ros.verdict import require_tubelets


@dataclass(frozen=True)
class Options(ReplayOptions):
    """Recording to replay, its report, the encoder's parameters, and how it is played."""

    topic: tuple[str, ...] = knob((), f"Image topics, if the recording has several; '{ALL}': every one.")
    params: Path | None = knob(None, "Parameter file of the encoder node.", metavar="FILE")
    play: PlayOptions = PlayOptions()


def replay(options: Options, console: Console) -> bool:
    """Play, receive and report; True if there is a result, with every frame and embedding accounted for.

    Raises:
        EmptyResultError: nothing came of the recording.
        ReplayError, PlayerError: a process ended, or did not answer.
        What open_playable raises: there is nothing to play.
    """
    config = load_config(options.params)
    for output in outputs(options):
        check_file(output)
    with ExitStack() as opened:
        playable = open_playable(options.source, options.topic, options.picture_hz, options.out, console, opened)
        if not options.play.encoder:
            checks = check_player(options, playable)
            for trial in checks:
                console.print(f"player alone: {trial_line(trial)}", soft_wrap=True, highlight=False)
            return all(trial.passed and trial.held for trial in checks)
        recording = run_benchmark(options, config, playable, console)
        if options.fidelity:
            recording.fidelity = fidelity_of(recording, options.play, config, playable, console)
    for file in save_report(recording, options.out):
        console.print(str(file), soft_wrap=True)
    return recording.totals.balanced and recording.benchmark is not None and recording.benchmark.is_result


def run_benchmark(options: Options, config: Config, playable: Playable, console: Console) -> Recording:
    """Run the encoder and the player, make the trials, and gather what the report needs."""
    play, topics = options.play, [topic for topic, _ in playable.topics]
    with ExitStack() as opened:
        encoder = opened.enter_context(encoder_process(options.params, topics, overrides(play, topics)))
        view = opened.enter_context(LiveView(playable.duration_s, console))
        node = TrialNode(encoder, playable.topics, config.node.output_topic, play.limits, view)
        opened.callback(node.destroy_node)
        run = BenchmarkRun(node, play, lambda line: console.print(line, soft_wrap=True, highlight=False))
        if play.player == EXTERNAL:
            benchmark = run.of_others()
        else:
            benchmark = run.of_player(opened.enter_context(loaded_player(options, playable)))
        recording = node.recording
        recording.benchmark = benchmark
        recording.parameters = describe_parameters(config) | overrides(play, topics)
        recording.environment = (
            encoder_facts(node.encoder.info) | environment(options, playable) | recording.environment
        )
        for source in playable.sources:
            recording.thumbnails |= thumbnails(source, source.topic, recording, config.vision)
        name = options.source.name
        verdict = require_tubelets(name, ", ".join(topics), node.accounts, len(recording.rows))
        recording.remark = benchmark.remark or verdict.sentence
        view.finish(recording)
    return recording


def fidelity_of(
    recording: Recording, play: PlayOptions, config: Config, playable: Playable, console: Console
) -> Fidelity:
    """Measure what saving cost in the last trial; whatever fails, the figures of a long benchmark are not lost."""
    config = replace(config, stream=replace(config.stream, fps=0.0)) if play.every_image else config
    try:
        pass_ns = pass_of([np.array([image.stamp_ns for image in source]) for source in playable.sources])
        with ProgressBar(console) as progress:
            return measure_fidelity(recording.sample, playable.sources, Pipeline(config), pass_ns, progress)
    except (ValueError, ArithmeticError, RuntimeError, OSError, ModuleNotFoundError) as failed:
        return Fidelity(missing=f"it could not be measured: {failed}")


def check_player(options: Options, playable: Playable) -> list[Trial]:
    """Play to a subscriber that only counts."""
    with loaded_player(options, playable) as player:
        node = CountingNode(playable.topics)
        try:
            return [node.count(player, schedule) for schedule in options.play.schedules]
        finally:
            node.destroy_node()


@contextmanager
def loaded_player(options: Options, playable: Playable) -> Iterator[PlayerClient]:
    """Run a player that has read the recording."""
    with player_process() as player:
        player.load(playable.path, playable.renamed, options.play, options.picture_hz)
        yield player


def overrides(play: PlayOptions, topics: Sequence[str]) -> dict[str, Any]:
    """Return the encoder's parameters that the options set, whatever its parameter file says."""
    parameters: dict[str, Any] = {"stream.fps": 0.0} if play.every_image else {}
    if play.reliability != AS_RECORDED:
        parameters |= {f"qos_overrides.{topic}.subscription.reliability": play.reliability for topic in topics}
    return parameters


def environment(options: Options, playable: Playable) -> dict[str, Fact]:
    """Describe what is played, and on what."""
    return {
        "source": options.source.name,
        "source_sha256": sha256_of(options.source),
        "topic": ", ".join(topic for topic, _ in playable.topics),
        "qos": f"{options.play.reliability}; recorded: {', '.join(s.reliability or '?' for s in playable.sources)}",
        "replayed": f"over ROS 2 ({rclpy.get_rmw_implementation_identifier()}), {time.strftime('%Y-%m-%d %H:%M')}",
        "machine": describe_machine(),
        "gpus": describe_gpus(),
        "software": describe_software(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Exit status 0 for a result whose accounts balance, 1 for any other or a refusal."""
    arguments = sys.argv if arguments is None else arguments
    # A domain of its own, unless one is given: another encoder or camera on the graph would spoil the figures.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    with forgiving_output():
        return guarded_replay(arguments)


def guarded_replay(arguments: list[str]) -> int:
    """Replay, and turn what ends it into a line and a status."""
    console = Console()
    try:
        with ended_by_signals():
            with ros_refusals():
                rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
            return 0 if replay(read_arguments(arguments), console) else 1
    except (ReplayError, PlayerError, ValueError, OSError) as refused:
        console.print(f"replay: {refused}", style="bold red", markup=False, soft_wrap=True)
        return 1
    except EndedBySignal as ended:
        console.print(f"replay: ended by {ended}; no report was written", soft_wrap=True)
        return ended.status
    finally:
        rclpy.try_shutdown()


def read_arguments(arguments: list[str]) -> Options:
    """Read the options among a command line's arguments; the others are ROS's."""
    parser = argparse.ArgumentParser(prog="replay_node", description=__doc__)
    add_options(parser, Options)
    return read_options(Options, vars(parser.parse_args(remove_ros_args(arguments)[1:])))
