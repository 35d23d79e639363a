"""First screen of a report: how fast, how late, what was saved, what it cost, what was dropped and why.

Everything is read off the record (record.py), so that page and JSON cannot differ.
"""

import html
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from saccade_ros.replay.trial import COUNTED, DENSE, GATED, LOST, MALFORMED, NOT_SAMPLED, OTHER, REPLACED, SPARSE
from saccade_ros.vision.ledger import DROP_CAUSES

CLASSES = {
    LOST: "lost on the way to the encoder",
    REPLACED: DROP_CAUSES["overflow"],
    NOT_SAMPLED: DROP_CAUSES["rate"],
    GATED: "reused the last embedding",
    DENSE: "encoded in full",
    SPARSE: "encoded in part",
    COUNTED: "received by a subscriber that only counts",
}
CAUSES_SHOWN = 3


class Answer(NamedTuple):
    """One question of the first screen, its answer, and what stands below it."""

    question: str
    text: str
    notes: tuple[str, ...]


def first_screen(record: Mapping[str, Any]) -> str:
    """Render what makes it no result, if anything does, and the five answers."""
    cards = "".join(
        f'<div class="answer"><span>{html.escape(question)}</span><b>{html.escape(text)}</b>'
        f"<small>{'<br>'.join(map(html.escape, notes))}</small></div>"
        for question, text, notes in (speed(record), lateness(record), savings(record), cost(record), losses(record))
    )
    return f'{_alarm(record["problems"])}<div class="answers">{cards}</div>'


def _alarm(problems: list[str]) -> str:
    if not problems:
        return ""
    told = "".join(f"<p>{html.escape(problem)}</p>" for problem in problems)
    return f'<div class="alarm" role="alert"><strong>This is no result.</strong>{told}</div>'


def speed(record: Mapping[str, Any]) -> Answer:
    """Answer how fast it is: the rate that was kept up with, else that of a benchmark that found none."""
    question, found = "How fast?", record["limits"]
    if found is None:
        return Answer(question, "not timed", (record["missing"].get("limits", ""),))
    notes = [f"{_number(record['embeddings_hz'])} embeddings/s at {_number(record['offered_hz'])} Hz offered"]
    sustained, failed = found["sustained_hz"], found["failed_hz"]
    if failed is not None:
        notes.append(f"did not keep up with {_number(failed)} Hz")
    elif sustained is not None:
        notes.append("no higher rate was tried")
    low, high = found["interval_hz"] or (sustained, failed)
    if (low, high) != (sustained, failed):
        notes.append(f"kept up now and then from {_number(low)} to {_number(high)} Hz: luck, or this machine's speed")
    if check := record["player_check"]:
        lost = check["classes"].get(LOST, 0)
        notes.append(f"the player alone: {lost or 'no'} frames lost at {_number(check['offered_hz'])} Hz")
    text = "did not keep up" if sustained is None else f"{_number(sustained)} Hz"
    return Answer(question, text, ("images per second and topic", *notes))


def lateness(record: Mapping[str, Any]) -> Answer:
    """Answer how late an embedding is: from the newest image received to the embedding published."""
    times, intervals = record["latency_ms"], record["latency_interval_ms"]
    notes = [f"median{_interval(intervals['p50'])}, received to published"]
    notes += [f"p{q} {_ms(times[f'p{q}'])}{_interval(intervals[f'p{q}'])}" for q in (90, 95, 99)]
    notes += ["in brackets: the 95 % interval"] if any(intervals.values()) else []
    if record["age_s"] is not None:
        notes.append(f"mean age of the information {_ms(1e3 * record['age_s'])}")
    return Answer("How late?", _ms(times["p50"]), (*notes, f"max {_ms(times['max'])}"))


def savings(record: Mapping[str, Any]) -> Answer:
    """Answer what was saved, against encoding every token of every tubelet."""
    share, rate = record["computed_share"], record["encode_rate"]
    if share is None:
        return Answer("What was saved?", "–", ("no tubelet was completed",))
    notes = f"of the tokens; {1 - rate:.0%} of the embeddings were reused", *_when(record)
    return Answer("What was saved?", f"{1 - share:.0%}", notes)


def cost(record: Mapping[str, Any]) -> Answer:
    """Answer what saving cost in fidelity: centred cosine to an encoder that has time for every tubelet."""
    fidelity, question = record["fidelity"], "What did it cost?"
    if fidelity["mean"] is None:
        return Answer(question, "not measured", (record["missing"].get("fidelity", ""),))
    notes = (
        "fidelity to always encoding (centred cosine), mean",
        f"p5 {fidelity['p5']:.3f}, worst {fidelity['worst']:.3f} of {fidelity['samples']} embeddings",
        *_when(record),
    )
    return Answer(question, f"{fidelity['mean']:.4f}", notes)


def _when(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Say which trial it is of, where it is not the one that is quoted: embeddings are kept of the last one."""
    last_hz = record["trials"][-1]["offered_hz"] if record["trials"] else None
    return () if last_hz == record["offered_hz"] else (f"in the last trial, at {_number(last_hz)} Hz",)


def losses(record: Mapping[str, Any]) -> Answer:
    """Answer what was dropped and why; what stream.fps leaves out by intention is not counted in."""
    counts = dict(record["classes"])
    frames, unsampled = sum(counts.values()), counts.pop(NOT_SAMPLED, 0)
    lost = {name: count for name, count in counts.items() if count and name not in (GATED, DENSE, SPARSE, COUNTED)}
    ranked = sorted(lost.items(), key=lambda item: -item[1])
    notes = [f"{count}: {meaning_of(name)}" for name, count in ranked[:CAUSES_SHOWN]]
    if ranked[CAUSES_SHOWN:]:
        notes.append(f"{sum(count for _, count in ranked[CAUSES_SHOWN:])}: for other causes, listed below")
    notes += [f"{unsampled} more were not sampled, as stream.fps asks"] if unsampled else []
    share = sum(lost.values()) / frames if frames else 0.0
    text = f"{share:.1%}" if lost else "nothing"
    return Answer("What was dropped?", text, tuple(notes) or (f"all of {frames} frames are in an embedding",))


def meaning_of(name: str) -> str:
    """Say what a class of frames means."""
    cause = name.removeprefix(OTHER).removeprefix(MALFORMED)
    return CLASSES.get(name) or DROP_CAUSES.get(cause, cause.replace("_", " "))


def figure_rows(record: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Tabulate all other figures: name, value, and what it means or why there is none."""
    for name, key, part, unit, note in _FIGURES:
        figure = record[key]
        value = figure.get(part) if isinstance(figure, dict) else figure
        reason = record["missing"].get(key) or record["missing"].get(f"{key}.{part}", "it was not measured")
        explained = reason if value is None else note
        yield name, "–" if value is None else f"{value:.4g} {unit}", explained


_FIGURES = (  # name, figure of the record, its part, unit, meaning
    ("image sent to embedding received", "end_to_end_ms", "p50", "ms", "median"),
    ("", "end_to_end_ms", "p99", "ms", "99th percentile"),
    ("jitter", "jitter_ms", "p50", "ms", "how unevenly embeddings arrive, against how the images were sent: median"),
    ("", "jitter_ms", "p99", "ms", "99th percentile"),
    ("age of the information", "age_s", "", "s", "of the image of the newest embedding, averaged over time"),
    ("configure, cold", "startup", "cold_configure_s", "s", "in a new process"),
    ("configure, warm", "startup", "warm_configure_s", "s", "again after a cleanup"),
    ("first embedding", "startup", "first_embedding_s", "s", "after the first image was sent"),
    ("processor", "cpu_cores", "", "cores", "in use by the encoder's process"),
    (
        "",
        "cpu_ms",
        "",
        "ms",
        "for each image in an embedding; of the same encoder and recording it tells the machine's speed",
    ),
    ("memory", "rss_mb", "max", "MB", "resident, of the encoder's process: the most"),
    ("", "rss_mb", "per_minute", "MB", "growth a minute, by a line fitted to it"),
    ("GPU memory", "gpu_mb", "max", "MB", "of the encoder's process: the most"),
    ("", "gpu_mb", "per_minute", "MB", "growth a minute"),
    ("energy", "joules_per_embedding", "", "J", "of the whole machine, for each embedding"),
)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"


def _interval(interval: list[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.1f} to {interval[1]:.1f})"
