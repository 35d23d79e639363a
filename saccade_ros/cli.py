"""The `saccade` command: encode, measure, calibrate, train and export without ROS."""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from saccade_ros.cli_options import add_options, read_options
from saccade_ros.measure.progress import Progress, ProgressBar
from saccade_ros.measure.records import save_record
from saccade_ros.storage import check_file, home_path
from saccade_ros.terminal import EndedBySignal, ended_by_signals, forgiving_output, print_whole


class Command(NamedTuple):
    """One command: a module of this package, imported only when the command is given.

    The module has `Options`, a dataclass of knobs; `run(options, progress)`, which returns a record; and
    `table(record)`, text or a rich table. It may have `draw(record, file)`, a picture of the record; `save(record,
    options)`, which writes the command's own files in place of --json; `outputs(options)`, files that it will write,
    which are tried before the work; and `exit_status(record)`, 0 if it has not.
    """

    module: str
    purpose: str


COMMANDS = {
    "replay": Command("replay.command", "run a recording through the encoder in this process, and report"),
    "compare": Command("replay.compare", "compare two replays, or several of each, and keep limits"),
    "calibrate": Command("studies.calibration", "choose gate.tau for a fidelity, from recordings"),
    "bench card": Command("studies.card", "time every model, runtime and precision of this machine, in minutes"),
    "bench step": Command("studies.step", "time the cached step in every variant, against transformers' re-encode"),
    "bench gate": Command("studies.gate_cost", "time the gate beside the cached step"),
    "bench decode": Command("studies.decoding", "time the way from a camera's message to the encoder's input"),
    "bench gates": Command("studies.gates", "compare the gate with simpler gates at equal compute"),
    "bench cameras": Command("studies.cameras", "time the steps of several cameras, in turn and as one"),
    "bench export": Command("studies.export", "time every artifact of an export beside torch, in one run"),
    "bench economies": Command("studies.economies", "compare all ways to compute fewer tokens, on clips, in one run"),
    "evaluate fidelity": Command("studies.fidelity", "compare the stream with the bidirectional clip encoder"),
    "evaluate gaze": Command("studies.gaze", "show how well a part of the patches rebuilds clips, by rule and setting"),
    "evaluate probe": Command("studies.probe", "classify labelled clips by a linear and an attentive probe"),
    "evaluate retrieval": Command("studies.retrieval", "find clips of the same label: R@1, R@5 and mAP"),
    "evaluate usefulness": Command("studies.usefulness", "measure the embeddings on held-out clips, beside controls"),
    "evaluate areas": Command("studies.areas", "compare area attention with full attention, and bound its speed-up"),
    "train causal": Command("train.session", "adapt a bidirectional checkpoint to the cached step (LoRA)"),
    "train cache": Command("train.cache_command", "compute a frozen teacher's targets for views of clips, once"),
    "train student": Command("train.student_command", "train a small encoder of your own on cached targets"),
    "export": Command("export.command", "quantize and export the cached step for ONNX Runtime and TensorRT"),
    "soak": Command("nodes.soak", "run the encoder node for minutes with faults mixed in: memory, latency, counts"),
    "doctor": Command("doctor.command", "say what this machine can run, and what to install for what is missing"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit status 0 when done, 1 when refused with a reason on stderr, 2 for wrong usage."""
    with forgiving_output(), ended_by_signals():
        return _guarded(list(sys.argv[1:] if arguments is None else arguments))


def _guarded(arguments: list[str]) -> int:
    name, rest = _choose(arguments)
    try:
        return _run(name, rest)
    except (ValueError, ArithmeticError, RuntimeError, OSError) as refused:  # ours say what and the remedy
        print(f"saccade: {refused}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as missing:
        print(f"saccade: this needs {missing.name}: `saccade doctor` says what to install", file=sys.stderr)
        return 1
    except EndedBySignal as ended:
        return ended.status


def _choose(words: list[str]) -> tuple[str, list[str]]:
    """Split the words in the name of a command and its arguments."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            return name, words[count:]
    _explain(words)


def _explain(words: list[str]) -> NoReturn:
    """List the commands if help was asked for, else refuse the words."""
    listed = "\n".join(f"  {name:19}  {command.purpose}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="saccade",
        usage="saccade COMMAND ...",
        description=__doc__,
        epilog=f"commands (COMMAND --help says more):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if {"-h", "--help"} & set(words):
        parser.print_help()
        parser.exit()
    parser.error(f"{' '.join(words[:2]) or 'no command'}: give one of {', '.join(COMMANDS)}")


def _run(name: str, arguments: list[str]) -> int:
    module = importlib.import_module(f"saccade_ros.{COMMANDS[name].module}")
    given, saves_itself = vars(_parser(name, module).parse_args(arguments)), hasattr(module, "save")
    file: Path | None = given.pop("json", None)
    options = read_options(module.Options, given)
    for output in _outputs(module, options, file):
        check_file(output)
    with _progress() as progress:
        record = module.run(options, progress)
    if file == Path("-"):
        print_whole(json.dumps(record, indent=2, allow_nan=False))
    else:
        for written in module.save(record, options) if saves_itself else _save(module, record, file):
            print(written)
        _show(module.table(record))
    return int(module.exit_status(record)) if hasattr(module, "exit_status") else 0


def _parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """Make the parser of a command's arguments: the options of its module, and --json if it does not save itself."""
    parser = argparse.ArgumentParser(prog=f"saccade {name}", description=COMMANDS[name].purpose, allow_abbrev=False)
    add_options(parser, module.Options)
    if not hasattr(module, "save"):
        about = "save the record, with its picture beside it if it has one; - prints it in place of the table"
        parser.add_argument("--json", type=home_path, metavar="FILE", help=about)
    return parser


def _outputs(module: ModuleType, options: Any, file: Path | None) -> Iterator[Path]:
    """Files that the command will write: its own, and those of --json."""
    if hasattr(module, "outputs"):
        yield from module.outputs(options)
    if file is not None and file != Path("-"):
        yield file
        if hasattr(module, "draw"):
            yield file.with_suffix(".png")


def _save(module: ModuleType, record: dict[str, Any], file: Path | None) -> Iterator[Path]:
    """Save the record, and its picture beside it."""
    if file is not None:
        yield save_record(record, file)
        if hasattr(module, "draw"):
            yield module.draw(record, file.with_suffix(".png"))


@contextmanager
def _progress() -> Iterator[Progress]:
    """Give a progress whose bar appears with the first report: some commands have their own display, or none."""
    with ExitStack() as shown:
        bars: list[ProgressBar] = []

        def progress(what: str, fraction: float) -> None:
            """Show the bar, if it is not there yet, and move it."""
            if not bars:
                bars.append(shown.enter_context(ProgressBar()))
            bars[0](what, fraction)

        yield progress


def _show(table: Any) -> None:
    if isinstance(table, str):
        print(table)
    else:
        from rich.console import Console

        Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
