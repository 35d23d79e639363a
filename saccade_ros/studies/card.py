"""Card of what this machine can do, made in minutes: `saccade bench card`. One JSON of it is made to be shared.

Each model in each runtime and precision that works here, dense and sparse; the gate; decoding. Times only: what a
precision costs in fidelity depends on weights and scenes, and is measured by an export and by `saccade bench step`.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saccade_ros.backends.manifest import is_export
from saccade_ros.config import BackendConfig, EncoderConfig, VisionConfig
from saccade_ros.doctor.probes import examine_runtime
from saccade_ros.encoder.spec import read_spec
from saccade_ros.knobs import Settings, knob, same_as
from saccade_ros.measure.machine import available_bytes
from saccade_ros.measure.progress import Progress
from saccade_ros.measure.records import record_head
from saccade_ros.runtimes import RUNTIMES
from saccade_ros.studies.card_model import Job, measure_model, slow_variants
from saccade_ros.studies.decoding import INPUT_SIZE, measure

BUSY = 0.5  # load average before the first measurement, above which its times are said to be disturbed


@dataclass(frozen=True)
class Options(Settings):
    """Models to measure, and the time that all of it may take."""

    models: tuple[str, ...] = knob(
        ("tiny", "default", "vitb", "vitl"),
        "Models, the small ones first: sizes with RANDOM weights, default, checkpoints, or folders of exports.",
        metavar="MODEL",
    )
    seconds: float = knob(
        240.0,
        "Time for all of it. Each model gets an equal share of what is left; what does not fit is named, not measured.",
        at_least=10.0,
    )
    window: int = same_as(EncoderConfig, "window")
    device: str = same_as(BackendConfig, "device")
    threads: int = same_as(BackendConfig, "threads")
    rounds: int = knob(20, "Pictures of each size and form to decode.", at_least=1)


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Measure the decoding, then model by model, each in a process of its own; return the card.

    Raises:
        ConfigError: one of the models is none.
    """
    started, load = time.monotonic(), os.getloadavg()[0]
    for model in options.models:
        _ = is_export(model) or read_spec(model)  # refused before anything is measured
    progress("asking which runtimes work here", 0.0)
    memory_mb, runtimes = round(available_bytes() / 1e6), {name: examine_runtime(name) for name in RUNTIMES}
    working = tuple(name for name, found in runtimes.items() if found.state == "ok")
    progress("decoding", 0.02)
    decoding, no_decoding = _apart(_measure_decoding, options.rounds)
    models: list[dict[str, Any]] = []
    for i, model in enumerate(options.models):
        left_s = options.seconds - (time.monotonic() - started)
        progress(f"measuring {model}", 1 - max(0.0, left_s) / options.seconds)
        share_s = left_s / (len(options.models) - i)
        slow = tuple(slow_variants(models[-1])) if models else ()
        job = Job(model, working, share_s, options.window, options.device, options.threads, slow)
        measured, failure = _apart(measure_model, job)
        models.append({**(measured or {"model": model, "steps": [], "left_out": []}), "failure": failure})
    progress("done", 1.0)
    return {
        "bench": "card",
        **record_head("of each model, below", ""),
        "load": round(load, 2),
        "busy": load > BUSY,
        "memory_mb": memory_mb,
        "seconds": round(time.monotonic() - started, 1),
        "runtimes": {name: f"{found.state}: {found.detail}" for name, found in runtimes.items()},
        "models": models,
        "decoding": decoding or [],
        "decoding_failure": no_decoding,
    }


def _measure_decoding(rounds: int) -> Iterator[list[dict[str, Any]]]:
    """Time decoding; yield all rows, once."""
    yield measure(INPUT_SIZE, VisionConfig.fit, rounds)


def _apart(work: Callable[[Any], Iterator[Any]], argument: Any) -> tuple[Any, str]:
    """Run a generator in a process of its own: the last that it yields, None if nothing, and what ended it early."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, work, argument), daemon=True)
    process.start()
    sender.close()  # the process's is the last one then, whose end ends the wait
    last, failure = None, None
    try:
        while failure is None:
            last, failure = receiver.recv()
    except EOFError:
        process.join()
        failure = f"its process ended with status {process.exitcode}; -9 says that the memory was not enough"
    finally:
        process.terminate()
        process.join()
    return last, failure or ""


def _work(sender: Connection, work: Callable[[Any], Iterator[Any]], argument: Any) -> None:
    last = None
    try:
        for last in work(argument):
            sender.send((last, None))
        sender.send((last, ""))
    except Exception as failed:  # noqa: BLE001  # the card goes on without this part, and says so
        sender.send((last, f"{type(failed).__name__}: {failed}"))


def table(record: Mapping[str, Any]) -> RenderableType:
    """Tabulate each model, then the decoding; a line for each row that is left out."""
    return Group(*(part for model in record["models"] for part in _model(model)), *_decoding(record), *_about(record))


def _model(model: Mapping[str, Any]) -> Iterator[RenderableType]:
    if model["steps"]:
        weights = f"{model['weights_million']:.0f} M weights{', RANDOM' if model['weights_random'] else ''}"
        size = f"{model['input_size']} px, window {model['window']}"
        rows = Table(title=f"{model['model']}: {weights}, {size}: ms per tubelet")
        for name in ("runtime", "precision", "device", "threads", "dense", "25 %", "10 %"):
            rows.add_column(name, justify="left" if name in ("runtime", "precision", "device") else "right")
        for row in model["steps"]:
            sparse = (_ms(part["median"]) + _widened(part) for part in row["sparse_ms"])
            about = (str(row[name]) for name in ("runtime", "precision", "device", "threads"))
            rows.add_row(*about, _ms(row["dense_ms"]["median"]), *sparse)
        yield rows
        gate = model["gate_ms"]
        costs = f"{_ms(gate['skip'])} ms for a skipped tubelet, {_ms(gate['open'])} ms for an encoded one"
        yield f"  gate: {costs}; patch embedding {_ms(gate['embed'])} ms"
    if model["failure"]:
        yield Text(f"  {model['model']}: {model['failure']}", style="red")
    for reason, rows_left_out in _by_reason(model["left_out"]).items():
        yield Text(f"  {model['model']}, not measured: {', '.join(rows_left_out)}: {reason}", style="dim")


def _by_reason(left_out: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for row in left_out:
        threads = " on 1 thread" if row["threads"] == 1 else ""
        reasons.setdefault(row["reason"], []).append(f"{row['runtime']} {row['precision']}{threads}")
    return reasons


def _decoding(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    for row in record["decoding"]:
        what = f"{row['size']} {row['form']} to {INPUT_SIZE} px"
        yield f"  decode and preprocess, two pictures of {what}: {_ms(row['tubelet_ms'])} ms"
    if record["decoding_failure"]:
        yield Text(f"  decoding: {record['decoding_failure']}", style="red")


def _about(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(f"  {record['machine']}; {record['memory_mb']} MB free; {record['seconds']:.0f} s", style="dim")
    if record["busy"]:
        yield Text(f"  load {record['load']}: the machine was busy with other work; run it again alone", style="red")


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.0f}"


def _widened(part: Mapping[str, Any]) -> str:
    """Say how much is computed where the runtime computes more than was asked for."""
    return f" ({part['computed']:.0%})" if part["computed"] > part["share"] + 0.01 else ""
