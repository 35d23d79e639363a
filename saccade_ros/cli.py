"""The `saccade` command: the engine's abilities without ROS."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
    _add_settings(replay)
    replay.add_argument("--out", default="replay", metavar="FOLDER", help="for report.html and summary.json")
    replay.set_defaults(run=_replay)

    bench = commands.add_parser("bench", help="measure speed").add_subparsers(required=True, metavar="WHAT")
    step = bench.add_parser("step", help="the cached step against transformers' re-encode of the window")
    step.add_argument("--model", default="vitl", help="size or checkpoint folder (default: %(default)s)")
    step.add_argument("--window", type=int, default=8, help="tubelets (default: %(default)s)")
    step.add_argument("--lookback", type=int, default=1, help="tubelets recomputed (default: %(default)s)")
    step.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    step.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's default")
    step.add_argument("--rounds", type=int, default=5, help="5 cached steps and 1 re-encode each")
    step.add_argument("--json", type=Path, metavar="FILE", help="save the result")
    step.set_defaults(run=_bench_step)
    _add_evaluate(commands)
    _add_train(commands)
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--params", metavar="FILE", help="parameters, as in config/encoder.yaml")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one parameter, e.g. --set encoder.model=tiny"
    )


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="measure quality").add_subparsers(required=True, metavar="WHAT")
    fidelity = evaluate.add_parser("fidelity", help="the stream against the bidirectional clip encoder, and its memory")
    fidelity.add_argument("clips", nargs="+", metavar="CLIP", help="bag or video; an event is cut from the second")
    fidelity.add_argument("--tubelets", type=int, default=0, help="of each clip's start; 0 takes all")
    fidelity.add_argument("--out", type=Path, default=Path("fidelity"), metavar="FOLDER", help="for picture and JSON")
    _add_settings(fidelity)
    fidelity.set_defaults(run=_evaluate_fidelity)


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train offline").add_subparsers(required=True, metavar="WHAT")
    causal = train.add_parser("causal", help="adapt a bidirectional checkpoint to the cached step (LoRA)")
    causal.add_argument("clips", nargs="+", metavar="CLIP", help="bags or videos to learn from")
    causal.add_argument(
        "--held-out", action="append", default=[], metavar="CLIP", help="to measure on, never trained on"
    )
    causal.add_argument("--out", type=Path, default=Path("adapter"), metavar="FOLDER", help="for adapter.safetensors")
    causal.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    causal.add_argument("--tubelets", type=int, default=0, help="of each clip's start; 0 takes all")
    for name, kind, default, about in (
        ("rank", int, 8, "of the low-rank changes"),
        ("alpha", float, 16.0, "scale of the changes, times 1/rank"),
        ("steps", int, 600, "of the optimizer"),
        ("views", int, 25, "examples made of each clip"),
        ("learning-rate", float, 2e-4, "at its highest"),
        ("seed", int, 0, "of the start and of the order of examples"),
        ("every", int, 50, "steps between checkpoints"),
    ):
        causal.add_argument(f"--{name}", type=kind, default=default, help=f"{about} (default: %(default)s)")
    _add_settings(causal)
    causal.set_defaults(run=_train_causal)


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


def _evaluate_fidelity(options: argparse.Namespace) -> int:
    from rich.console import Console

    from saccade_ros.config import load_config
    from saccade_ros.evaluate.report import evaluate_fidelity, save, table

    record = evaluate_fidelity(load_config(options.params, _settings(options.set)), options.clips, options.tubelets)
    Console().print(table(record))
    for file in save(record, options.out):
        print(file)
    return 0


def _train_causal(options: argparse.Namespace) -> int:
    from saccade_ros.config import load_config
    from saccade_ros.train.causal import TrainingPlan
    from saccade_ros.train.session import train_causal

    config = load_config(options.params, _settings(options.set))
    names = ("rank", "alpha", "steps", "views", "learning_rate", "seed", "every")
    plan = TrainingPlan(config.encoder.model, config.encoder.window, **{name: getattr(options, name) for name in names})
    for file in train_causal(
        config, plan, options.clips, options.held_out, options.out, options.resume, options.tubelets
    ):
        print(file)
    return 0


def _bench_step(options: argparse.Namespace) -> int:
    from saccade_ros.bench import bench_step

    result = bench_step(
        options.model, options.window, options.lookback, options.precision, options.threads, options.rounds
    )
    print(_step_table(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(options.json)
    return 0


def _step_table(result: dict[str, Any]) -> str:
    lines = [f"{result['model']}, window {result['window']}, {result['precision']}, {result['threads']} threads"]
    for name, key in (
        ("cached step", "cached_step_ms"),
        ("patch embedding", "patch_embed_ms"),
        ("transformers, whole window", "full_reencode_ms"),
    ):
        times = result[key]
        lines.append(
            f"  {name:27}{times['median']:9.1f} ms  ({times['min']:.1f} to {times['max']:.1f}, {times['runs']} runs)"
        )
    peak = result["peak_rss_mb"]
    lines.append(f"  {'speedup of the medians':27}{result['speedup']:9.2f} x")
    lines.append(
        f"  {'peak memory':27}{peak['cached_alone']:9.0f} MB ({peak['with_transformers']:.0f} MB with transformers)"
    )
    lines.append(f"  {result['weights']}; {result['machine']}, torch {result['torch']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
