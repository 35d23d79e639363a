"""What the gate costs, as a share of the step that it may save: `saccade bench gate`."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from saccade_ros.config import Config
from saccade_ros.engine import Engine, patch_response
from saccade_ros.frames import Pixels, TokenPlan
from saccade_ros.measure.machine import describe_machine
from saccade_ros.plan.gate import SurpriseGate


def bench_gate(config: Config, rounds: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Time the decision, the patch embedding and the cached step on a full ring, in turn, in one run.

    The picture is textured and drifts, so that the gate does all its work: fit, noise, drift, and a new reference each
    time it opens.
    """
    engine = Engine(replace(config, gate=replace(config.gate, enabled=True)))
    backend, info = engine.backend, engine.backend.info
    gate, state = SurpriseGate(config.gate, patch_response(backend)), backend.new_state()
    pictures = _drifting(info.input_size, 8)
    for pixels in (pictures * (1 + info.window // len(pictures)))[: info.window]:
        progress("filling the cache")
        state.step(backend.embed(pixels).patches)
    times: dict[str, list[float]] = {"embed_ms": [], "skip_ms": [], "open_ms": [], "step_ms": []}
    for n in range(rounds):
        progress("measuring")
        pixels = pictures[n % len(pictures)]
        embed_ms, embedded = _timed(partial(backend.embed, pixels))
        times["embed_ms"].append(embed_ms)
        for encode, key in ((False, "skip_ms"), (True, "open_ms")):

            def gated(encode: bool = encode, features: Any = embedded.features, stamp_ns: int = n) -> None:
                dense = TokenPlan.dense(len(features), "dense")
                gate.propose(features, stamp_ns, dense)
                gate.commit(features, stamp_ns, dense if encode else TokenPlan.reuse())

            if n:
                times[key].append(_timed(gated)[0])
            elif encode:
                gated()
        times["step_ms"].append(_timed(partial(state.step, embedded.patches))[0])
    medians = {key: statistics.median(values) for key, values in times.items()}
    return {
        "bench": "gate",
        "model": info.model,
        "window": info.window,
        "precision": info.precision,
        "threads": info.threads,
        **medians,
        "runs": rounds,
        "gate_fraction": max(medians["skip_ms"], medians["open_ms"]) / medians["step_ms"],
        "embed_fraction": medians["embed_ms"] / medians["step_ms"],
        "machine": describe_machine(),
    }


def cost_table(result: dict[str, Any]) -> str:
    """For the terminal."""
    step = result["step_ms"]
    lines = [f"{result['model']}, window {result['window']}, {result['precision']}, {result['threads']} threads"]
    for name, key in (
        ("gate, tubelet skipped", "skip_ms"),
        ("gate, tubelet encoded", "open_ms"),
        ("patch embedding", "embed_ms"),
        ("cached step", "step_ms"),
    ):
        lines.append(f"  {name:24}{result[key]:9.2f} ms  {result[key] / step:7.2%} of the step")
    lines.append("  An encoded tubelet's patch embedding is the step's own first layer; only a skipped one's is extra.")
    lines.append(f"  medians of {result['runs']}; {result['machine']}")
    return "\n".join(lines)


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return (time.perf_counter() - started) * 1e3, result


def _drifting(size: int, count: int) -> list[Pixels]:
    rng = np.random.default_rng(0)
    wide = rng.normal(0, 1, (3, size, size + 4 * count)).astype(np.float32)
    return [np.stack([wide[:, :, 4 * i : 4 * i + size]] * 2) for i in range(count)]
