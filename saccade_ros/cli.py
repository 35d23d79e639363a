"""The `saccade` command: the engine's abilities without ROS."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saccade_ros.config import Config
    from saccade_ros.measure.progress import ProgressBar


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit status 0 when done, 1 when refused with a reason on stderr, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, ArithmeticError, RuntimeError, OSError) as refused:  # ours say what and the remedy
        print(f"saccade: {refused}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as missing:
        print(f"saccade: this needs {missing.name}: `saccade doctor` says what to install", file=sys.stderr)
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

    calibrate = commands.add_parser("calibrate", help="choose gate.tau for a fidelity, from recordings")
    calibrate.add_argument("sources", nargs="+", type=Path, metavar="BAG_OR_VIDEO", help="of what the robot will see")
    calibrate.add_argument(
        "--target-fidelity",
        type=float,
        default=0.98,
        metavar="COSINE",
        help="least 5th percentile of centred cosine between reused and fresh embeddings (default: %(default)s)",
    )
    calibrate.add_argument("--params", metavar="FILE", help="parameters, as in config/encoder.yaml")
    calibrate.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one parameter")
    calibrate.add_argument(
        "--out", type=Path, default=Path("calibrated.yaml"), metavar="FILE", help="parameters; .json and .png beside it"
    )
    calibrate.set_defaults(run=_calibrate)

    bench = commands.add_parser("bench", help="measure speed").add_subparsers(required=True, metavar="WHAT")
    step = bench.add_parser("step", help="the cached step in every variant, against transformers' re-encode")
    step.add_argument("--model", default="vitl", help="size or checkpoint folder (default: %(default)s)")
    step.add_argument("--windows", type=int, nargs="+", default=[8], metavar="W", help="tubelets (default: 8)")
    step.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16", "fp16", "int8"))
    step.add_argument("--recomputes", type=int, nargs="+", default=[1], metavar="R", help="recomputed (default: 1)")
    step.add_argument("--batches", type=int, nargs="+", default=[1], metavar="B", help="streams in a step (default: 1)")
    step.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    step.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's default")
    step.add_argument("--rounds", type=int, default=5, help="10 steps and 1 re-encode each (default: %(default)s)")
    step.add_argument("--clip", default="", help="bag or video to encode; default: noise")
    step.add_argument("--json", type=Path, metavar="FILE", help="save the result")
    step.set_defaults(run=_bench_step)

    gate = bench.add_parser("gate", help="the gate's own cost as a share of the cached step")
    gate.add_argument("--params", metavar="FILE", help="parameters, as in config/encoder.yaml")
    gate.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one parameter")
    gate.add_argument("--rounds", type=int, default=20, help="steps to time (default: %(default)s)")
    gate.add_argument("--json", type=Path, metavar="FILE", help="save the result")
    gate.set_defaults(run=_bench_gate)

    gates = bench.add_parser("gates", help="what the gate chooses, against simpler gates at equal compute")
    gates.add_argument("clips", nargs="*", type=Path, metavar="BAG_OR_VIDEO", help="beside the generated scenes")
    gates.add_argument(
        "--fraction", type=float, default=0.15, help="of tubelets, encoded by each gate (default: %(default)s)"
    )
    gates.add_argument("--params", metavar="FILE", help="parameters, as in config/encoder.yaml")
    gates.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one parameter")
    gates.add_argument("--json", type=Path, metavar="FILE", help="save the result, and a picture beside it")
    gates.set_defaults(run=_bench_gates)

    exported = bench.add_parser("export", help="every artifact of an export against torch fp32, in one run")
    exported.add_argument("folder", help="what `saccade export` wrote")
    exported.add_argument("--model", required=True, help="what it was exported from")
    exported.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the runtimes' default")
    exported.add_argument("--rounds", type=int, default=15, help="steps of each (default: %(default)s)")
    exported.add_argument("--clips", nargs="*", default=[], help="bags or videos for parity over three windows")
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
    export.add_argument("--recompute", type=int, default=1, help="tubelets recomputed each step (default: %(default)s)")
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
    fidelity.add_argument(
        "clips", nargs="+", type=Path, metavar="CLIP", help="bag or video; an event is cut from the second"
    )
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
        ("rank", int, 16, "of the low-rank changes"),
        ("alpha", float, 16.0, "scale of the changes, times 1/rank"),
        ("steps", int, 1200, "of the optimizer"),
        ("learning-rate", float, 3e-4, "at its highest"),
        ("seed", int, 0, "of the start and of the views"),
        ("every", int, 100, "steps between checkpoints"),
    ):
        causal.add_argument(f"--{name}", type=kind, default=default, help=f"{about} (default: %(default)s)")
    _add_settings(causal)
    causal.set_defaults(run=_train_causal)


def _replay(options: argparse.Namespace) -> int:
    from saccade_ros.config import load_config
    from saccade_ros.recordings import open_source
    from saccade_ros.replay.inprocess import replay
    from saccade_ros.replay.live import LiveView
    from saccade_ros.replay.report import save_report

    config = load_config(options.params, _settings(options.set))
    with open_source(options.source, options.topic) as source, LiveView(source.duration_s) as view:
        recording = replay(source, config, view.update)
        recording.environment["source"] = Path(options.source).name
        view.finish(recording)
    for file in save_report(recording, Path(options.out)):
        print(file)
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from saccade_ros.studies import calibration

    study = calibration.Options(
        tuple(options.sources), options.target_fidelity, options.out, _config(options, calibration.Options.config)
    )
    with _progress() as progress:
        record = calibration.run(study, progress)
    for file in calibration.save(record, study):
        print(file)
    print(calibration.table(record))
    return 0


def _bench_gate(options: argparse.Namespace) -> int:
    from saccade_ros.studies import gate_cost

    study = gate_cost.Options(options.rounds, _config(options, gate_cost.Options.config))
    with _progress() as progress:
        record = gate_cost.run(study, progress)
    print(gate_cost.table(record))
    return _save(record, options.json)


def _bench_gates(options: argparse.Namespace) -> int:
    from saccade_ros.studies import gates

    study = gates.Options(tuple(options.clips), options.fraction, _config(options, gates.Options.config))
    with _progress() as progress:
        record = gates.run(study, progress)
    print(gates.table(record))
    if options.json:
        print(gates.draw(record, options.json.with_suffix(".png")))
    return _save(record, options.json)


def _progress() -> "ProgressBar":
    from saccade_ros.measure.progress import ProgressBar

    return ProgressBar()


def _config(options: argparse.Namespace, base: "Config | None" = None) -> "Config":
    from saccade_ros.config import load_config

    return load_config(options.params, _settings(options.set), base)


def _save(record: dict[str, Any], file: Path | None) -> int:
    from saccade_ros.measure.records import save_record

    if file:
        print(save_record(record, file))
    return 0


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--set {pair}: give NAME=VALUE, such as gate.tau=0.4")
    return dict(pair.split("=", 1) for pair in pairs)


def _evaluate_fidelity(options: argparse.Namespace) -> int:
    from rich.console import Console

    from saccade_ros.studies import fidelity

    study = fidelity.Options(tuple(options.clips), options.tubelets, options.out, _config(options))
    with _progress() as progress:
        record = fidelity.run(study, progress)
    Console().print(fidelity.table(record))
    for file in fidelity.save(record, study):
        print(file)
    return 0


def _train_causal(options: argparse.Namespace) -> int:
    from saccade_ros.config import load_config
    from saccade_ros.train.causal import TrainingPlan
    from saccade_ros.train.session import train_causal

    config = load_config(options.params, _settings(options.set))
    names = ("rank", "alpha", "steps", "learning_rate", "seed", "every")
    plan = TrainingPlan(config.encoder.model, config.encoder.window, **{name: getattr(options, name) for name in names})
    for file in train_causal(
        config, plan, options.clips, options.held_out, options.out, options.resume, options.tubelets
    ):
        print(file)
    return 0


def _bench_step(options: argparse.Namespace) -> int:
    from rich.console import Console

    from saccade_ros.studies import step

    given: dict[str, Any] = {name: getattr(options, name) for name in step.Options.__dataclass_fields__}
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    with _progress() as progress:
        record = step.run(step.Options(**given), progress)
    Console().print(step.table(record))
    return _save(record, options.json)


def _bench_export(options: argparse.Namespace) -> int:
    from rich.console import Console

    from saccade_ros.studies import export

    study = export.Options(options.folder, options.model, options.threads, options.rounds, tuple(options.clips))
    with _progress() as progress:
        record = export.run(study, progress)
    Console().print(export.table(record))
    return _save(record, options.json)


def _export(options: argparse.Namespace) -> int:
    from saccade_ros.export.exporter import export
    from saccade_ros.export.options import ExportOptions
    from saccade_ros.export.report import print_manifest

    wanted = ExportOptions(
        model=options.model,
        out=options.out,
        calibration=options.calibrate,
        held_out=options.held_out,
        formats=tuple(options.formats),
        precisions=tuple(options.precisions),
        window=options.window,
        recompute=options.recompute,
        batch=options.batch,
        seed=options.seed,
        adapter=options.adapter,
        tubelets=options.tubelets,
        threads=options.threads,
        fidelity_floor=options.fidelity_floor,
        force=options.force,
    )
    with _progress() as progress:
        manifest = export(wanted, progress)
    print_manifest(manifest)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from saccade_ros.doctor.findings import print_findings
    from saccade_ros.doctor.probes import examine

    findings = examine()
    print_findings(findings, as_json=options.json)
    return 0 if findings.can_run else 1


if __name__ == "__main__":
    sys.exit(main())
