"""The `saccade` command: the engine's abilities without ROS."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit status 0 when done, 1 when refused with a reason on stderr, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, ArithmeticError, RuntimeError, OSError) as refused:  # ours say what and the remedy
        print(f"saccade: {refused}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="saccade", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    replay = commands.add_parser("replay", help="run a bag or video through the engine and report")
    replay.add_argument("source", help="rosbag2 folder, .mcap, .db3, .bag or a video file")
    replay.add_argument("--topic", help="image topic, if the bag has several")
    replay.add_argument("--params", metavar="FILE", help="parameters, as in config/encoder.yaml")
    replay.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one parameter, e.g. --set encoder.model=tiny"
    )
    replay.add_argument("--out", default="replay", metavar="FOLDER", help="for report.html and summary.json")
    replay.set_defaults(run=_replay)

    bench = commands.add_parser("bench", help="measure speed").add_subparsers(required=True, metavar="WHAT")
    step = bench.add_parser("step", help="the cached step in every variant, against transformers' re-encode")
    step.add_argument("--model", default="vitl", help="size or checkpoint folder (default: %(default)s)")
    step.add_argument("--windows", type=int, nargs="+", default=[8], metavar="W", help="tubelets (default: 8)")
    step.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16", "fp16"))
    step.add_argument("--lookbacks", type=int, nargs="+", default=[1], metavar="R", help="recomputed (default: 1)")
    step.add_argument("--batches", type=int, nargs="+", default=[1], metavar="B", help="streams in a step (default: 1)")
    step.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    step.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's default")
    step.add_argument("--rounds", type=int, default=5, help="10 steps and 1 re-encode each (default: %(default)s)")
    step.add_argument("--clip", type=Path, help="bag or video to encode; default: noise")
    step.add_argument("--json", type=Path, metavar="FILE", help="save the result")
    step.set_defaults(run=_bench_step)
    return parser


def _replay(options: argparse.Namespace) -> int:
    from saccade_ros.config import load_config
    from saccade_ros.replay.inprocess import replay
    from saccade_ros.replay.live import LiveView
    from saccade_ros.replay.report import save_report
    from saccade_ros.replay.source import open_source

    config = load_config(options.params, _settings(options.set))
    with open_source(options.source, options.topic) as source, LiveView(source.duration_s) as view:
        recording = replay(source, config, view.update)
        recording.facts["source"] = Path(options.source).name
        view.finish(recording)
    for file in save_report(recording, Path(options.out)):
        print(file)
    return 0


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--set {pair}: give NAME=VALUE, such as gate.tau=0.4")
    return dict(pair.split("=", 1) for pair in pairs)


def _bench_step(options: argparse.Namespace) -> int:
    from saccade_ros.bench.step import StepBench, print_table

    names = ("model", "windows", "precisions", "lookbacks", "batches", "device", "threads", "rounds", "clip")
    result = StepBench(**{name: getattr(options, name) for name in names}).run()
    print_table(result)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
