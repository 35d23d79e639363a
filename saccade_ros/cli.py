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
    replay.add_argument("--params", metavar="FILE", help="parameters, as in config/encoder.yaml")
    replay.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one parameter, e.g. --set encoder.model=tiny"
    )
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
    exported = bench.add_parser("export", help="every artifact of an export against torch fp32, in one run")
    exported.add_argument("folder", help="what `saccade export` wrote")
    exported.add_argument("--model", required=True, help="what it was exported from")
    exported.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the runtimes' default")
    exported.add_argument("--rounds", type=int, default=15, help="steps of each (default: %(default)s)")
    exported.add_argument("--clip", default="", help="bag or video for parity over three windows")
    exported.add_argument("--json", type=Path, metavar="FILE", help="save the result")
    exported.set_defaults(run=_bench_export)

    export = commands.add_parser("export", help="quantize and export the cached step for ONNX Runtime and TensorRT")
    export.add_argument("--model", required=True, help="checkpoint folder, hub id, or size with random weights")
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="appears whole or not at all")
    export.add_argument("--calibrate", required=True, metavar="CLIP", help="bag or video to calibrate and measure on")
    export.add_argument(
        "--held-out", default="", metavar="CLIP", help="another to judge by; else the clip's second half"
    )
    export.add_argument("--formats", nargs="+", default=["onnx"], metavar="FORMAT", help="onnx tensorrt")
    export.add_argument(
        "--precisions",
        nargs="+",
        default=["fp32", "int8"],
        metavar="PRECISION",
        help="of onnx: fp32 fp16 int8 int8-static int4; of tensorrt: fp32 fp16 bf16 (default: fp32 int8)",
    )
    export.add_argument("--window", type=int, default=8, help="tubelets in the cache (default: %(default)s)")
    export.add_argument("--lookback", type=int, default=1, help="tubelets recomputed each step (default: %(default)s)")
    export.add_argument(
        "--batch", type=int, default=1, help="streams per call; the node takes 1 (default: %(default)s)"
    )
    export.add_argument("--adapter", default="", metavar="FILE", help="causal adapter to merge")
    export.add_argument("--seed", type=int, default=0, help="of random weights")
    export.add_argument("--tubelets", type=int, default=32, help="of each clip (default: %(default)s)")
    export.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the runtimes' default")
    export.add_argument(
        "--fidelity-floor", type=float, default=0.99, help="least mean centred cosine on the held-out clip"
    )
    export.add_argument("--force", action="store_true", help="keep what is refused, with a warning in the manifest")
    export.set_defaults(run=_export)

    doctor = commands.add_parser("doctor", help="what this machine can run, and what to install for what is missing")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(run=_doctor)
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


def _bench_export(options: argparse.Namespace) -> int:
    from saccade_ros.export.report import bench_export, print_race

    result = bench_export(options.folder, options.model, options.threads, options.rounds, options.clip)
    print_race(result)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(options.json)
    return 0


def _export(options: argparse.Namespace) -> int:
    from saccade_ros.export.exporter import ExportOptions, export
    from saccade_ros.export.report import ProgressBar, print_manifest

    wanted = ExportOptions(
        model=options.model,
        out=options.out,
        calibration=options.calibrate,
        held_out=options.held_out,
        formats=tuple(options.formats),
        precisions=tuple(options.precisions),
        window=options.window,
        lookback=options.lookback,
        batch=options.batch,
        seed=options.seed,
        adapter=options.adapter,
        tubelets=options.tubelets,
        threads=options.threads,
        fidelity_floor=options.fidelity_floor,
        force=options.force,
    )
    with ProgressBar() as bar:
        manifest = export(wanted, bar.update)
    print_manifest(manifest)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from saccade_ros.doctor import examine, print_findings

    findings = examine()
    print_findings(findings, as_json=options.json)
    return 0 if findings.can_run else 1


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
