"""Steps of several cameras, in turn and as one, and the cores that they keep busy: `saccade bench cameras`.

EncoderInfo.together, by which the node steps cameras as one, rests on this measurement.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from saccade_ros.backends.base import Backend, JointBackend, StepRequest
from saccade_ros.config import Config
from saccade_ros.knobs import Settings, knob
from saccade_ros.measure.progress import Progress, subrange
from saccade_ros.measure.records import record_head
from saccade_ros.measure.timing import interleave, spread
from saccade_ros.pipeline import Pipeline

Case = tuple[float, int, str]  # share of the tokens, cameras, and "in turn" or "as one"


@dataclass(frozen=True)
class Options(Settings):
    """Encoder, numbers of cameras, and shares of the tokens to time."""

    cameras: tuple[int, ...] = knob((1, 2, 4), "Cameras whose tubelets are ready together.", at_least=1, metavar="N")
    shares: tuple[float, ...] = knob(
        (1.0, 0.25, 0.1),
        "Shares of the tokens that a step computes; 1.0 computes all.",
        at_least=0.001,
        at_most=1.0,
        metavar="SHARE",
    )
    rounds: int = knob(50, "Times that each is timed, by turns.", at_least=1)
    config: Config = Config()


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Time the steps of full rings, in turn and, where the backend can, as one.

    The cores kept busy by steps in turn are the process's time on processors over that of the thread that encodes:
    other load of the machine does not change it.
    """
    progress("loading the model", 0.0)
    config = replace(options.config, tokens=replace(options.config.tokens, select="all"))
    backend = Pipeline(config).backend
    info, calls = backend.info, dict(_calls(options, backend))
    for call in calls.values():
        call()
    process_s, thread_s = time.process_time(), time.thread_time()
    for call in (call for (_, _, how), call in calls.items() if how == "in turn"):
        call()
    cores = (time.process_time() - process_s) / (time.thread_time() - thread_s)
    times_ms = interleave(calls, options.rounds, progress=subrange(progress, 0.1, 0.9))
    return {
        "bench": "cameras",
        **record_head(info.weights, info.weights_sha256),
        "model": info.model,
        "backend": info.backend,
        "window": info.window,
        "precision": info.precision,
        "threads": info.threads,
        "cores": cores,
        "together": info.together,
        "steps": [
            {"share": share, "cameras": cameras, "how": how, "ms": spread(times)._asdict()}
            for (share, cameras, how), times in times_ms.items()
        ],
    }


def _calls(options: Options, backend: Backend) -> Iterator[tuple[Case, Callable[[], object]]]:
    """Steps to time, of cameras whose rings are full."""
    random, size = np.random.default_rng(0), backend.info.input_size
    pictures = random.normal(0, 1, (max(options.cameras), 2, 3, size, size)).astype(np.float32)
    requests = [StepRequest(backend.new_state(), backend.embed(pixels).patches) for pixels in pictures]
    tokens = len(backend.embed(pictures[0]).features)
    for _ in range(backend.info.window):
        _step_in_turn(requests)
    for share in options.shares:
        token_idx = None if share == 1 else np.linspace(0, tokens - 1, max(1, round(share * tokens)), dtype=np.int64)
        for cameras in options.cameras:
            chosen = [request._replace(token_idx=token_idx) for request in requests[:cameras]]
            yield (share, cameras, "in turn"), partial(_step_in_turn, chosen)
            if cameras > 1 and isinstance(backend, JointBackend):
                yield (share, cameras, "as one"), partial(backend.step_together, chosen)


def _step_in_turn(requests: list[StepRequest]) -> None:
    for request in requests:
        request.compute()


def table(record: dict[str, Any]) -> str:
    """Write a line per share and number of cameras."""
    medians_ms = {(row["share"], row["cameras"], row["how"]): row["ms"]["median"] for row in record["steps"]}
    lines = [
        f"{record['model']}, window {record['window']}, {record['backend']} {record['precision']}, "
        f"{record['threads']} threads, {record['cores']:.2f} cores busy; the node steps {record['together']} as one",
        "  tokens  cameras  in turn, ms  as one, ms  ratio",
    ]
    for (share, cameras, how), ms in medians_ms.items():
        if how == "in turn":
            joint_ms = medians_ms.get((share, cameras, "as one"))
            joint = "" if joint_ms is None else f"{joint_ms:12.2f}{joint_ms / ms:7.2f}"
            lines.append(f"{share:8.0%}{cameras:9}{ms:13.2f}{joint}")
    lines.append(f"  medians of {record['steps'][0]['ms']['runs']}; {record['machine']}")
    return "\n".join(lines)
