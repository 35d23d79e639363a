"""Report of a replay: one HTML page with everything inside, its record as JSON, and tables as CSV."""

import base64
import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np

from saccade_ros.default_model import advice
from saccade_ros.frames import Picture
from saccade_ros.replay.answers import figure_rows, first_screen, meaning_of
from saccade_ros.replay.moments import GAP_NS, MATCHES, Match, Moment
from saccade_ros.replay.plots import STAGES, latency_plot, novelty_timeline, trial_curves
from saccade_ros.replay.record import make_record
from saccade_ros.replay.recording import EmbeddingRow, Recording, percentile
from saccade_ros.replay.tables import embeddings_csv, trials_csv
from saccade_ros.storage import write_file, write_json

REPORT = ("report.html", "summary.json", "embeddings.csv", "trials.csv")
THUMBNAIL_SIDE = 160  # pixels
MAX_RECALLS = 8  # moments that are shown with the earlier ones they resemble


def save_report(recording: Recording, folder: Path) -> list[Path]:
    """Write the files of REPORT into `folder`, the last one only where there are trials; return their paths."""
    record = make_record(recording)
    files = [folder / name for name in REPORT]
    page, summary, embeddings, trials = files
    write_file(page, _render(recording, record))
    write_json(summary, record)
    write_file(embeddings, embeddings_csv(recording.rows))
    if not record["trials"]:
        return files[:-1]
    write_file(trials, trials_csv(record["trials"]))
    return files


def thumbnail(picture: Picture) -> bytes:
    """Shrink an RGB picture (height, width, 3) to a small JPEG of the same aspect."""
    height, width, _ = picture.shape
    scale = THUMBNAIL_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def render(recording: Recording) -> str:
    """Render the page. It refers to nothing outside itself."""
    return _render(recording, make_record(recording))


def _render(recording: Recording, record: Mapping[str, Any]) -> str:
    template = Template((resources.files("saccade_ros.replay") / "report.html").read_text(encoding="utf-8"))
    trials = recording.benchmark.trials if recording.benchmark else ()
    return template.substitute(
        source=html.escape(str(recording.environment.get("source", "replay"))),
        headline=html.escape(_headline(recording)),
        headline_class="good" if recording.totals.balanced else "bad",
        answers=first_screen(record),
        curves=trial_curves(trials),
        trials=_trials(record["trials"]),
        figures=_table(figure_rows(record)),
        stages=_table(_stages(recording)),
        banner=_banner(recording) + _note(recording.remark),
        tiles=_tiles(recording),
        novelty=novelty_timeline(recording),
        latency=latency_plot(recording),
        thumbnails=_thumbnails(recording),
        recalls=_recalls(recording),
        classes=_table(
            (name.replace("_", " "), count, meaning_of(name))
            for name, count in sorted(record["classes"].items(), key=lambda item: -item[1])
        ),
        gate=_table(
            (name.replace("_", " "), value, GATE_FIGURES.get(name, "")) for name, value in recording.gate.items()
        )
        or "<p>It told nothing.</p>",
        environment=_table(sorted(recording.environment.items())),
    )


# What the figures of Recording.gate mean.
GATE_FIGURES = {
    "tokens_select": "rule that chooses the tokens of an encoded tubelet; all: none does",
    "mode": "fixed: gate.tau as it is; budget: moved to hold the budget; off",
    "tau": "at the end of the replay",
    "clamp": "the limit that holds tau, if any",
    "loss_scale": "loss of reuse as found at whole encodes over the loss expected by gate.loss_per_change",
    "loss_answers": "encodes that it was learnt from",
    "budget_encoded_fraction": "of the last 30 s of tubelets; one of which a tenth is computed counts a tenth",
    "budget_allowed_fraction": "of them, by gate.budget_fraction or gate.budget_hz",
    "budget_use": "the one over the other",
    "shadow_evaluations": "skipped tubelets that were encoded after all, to see how wrong reuse was",
    "shadow_refused": "shadow evaluations that were due and for which there was no idle time",
    "shadow_delays": "tubelets that waited for a shadow evaluation",
    "staleness_s_mean": "age of the embeddings, fresh ones included, over the last 256 tubelets",
    "staleness_s_max": "the oldest of them",
    "fidelity_mean": "centred cosine of reused and fresh embedding, over the last 256 shadow evaluations",
    "fidelity_p5": "5th percentile: 95 % of reused embeddings were at least as good",
    "fidelity_worst": "the worst of them",
    "fidelity_centre": "mean embedding that was subtracted from both",
}


def _banner(recording: Recording) -> str:
    """Say what the embeddings are worth, where the weights are random or the default ones."""
    if not recording.trained:
        return (
            '<p class="banner"><strong>Random weights.</strong> Timings and the gate’s behaviour are real, '
            "the embeddings mean nothing yet.</p>"
        )
    return _note(advice(recording.weights))


def _note(text: str) -> str:
    return f'<p class="banner">{html.escape(text)}</p>' if text else ""


def _headline(recording: Recording) -> str:
    totals, share = recording.totals, recording.computed_share
    if not totals.balanced:
        return (
            f"The accounts do not balance: {totals.frames_in} frames in, {totals.frames_used} used, {totals.dropped} "
            f"dropped; {totals.published} embeddings published, {totals.received} received."
        )
    if share is None:
        return "No tubelet was completed, so there is nothing to show."
    return f"Tokens computed: {share:.0%} of those of dense encoding. Every frame and embedding is accounted for."


def _tiles(recording: Recording) -> str:
    summary = recording.summary()
    share = summary["computed_share"]
    tiles = (
        ("frames in", summary["frames_in"], ""),
        ("frames used", summary["frames_used"], f"{recording.totals.dropped} dropped"),
        ("tubelets", summary["tubelets"], f"{summary['received']} received"),
        ("encoded", summary["encoded"], "" if summary["encode_rate"] is None else f"{summary['encode_rate']:.0%}"),
        ("skipped", summary["skipped"], "embedding reused"),
        ("tokens computed", "–" if share is None else f"{share:.0%}", "of those of dense encoding"),
    )
    return "".join(
        f'<div class="tile"><span>{name}</span><b>{value}</b><small>{note or "&nbsp;"}</small></div>'
        for name, value, note in tiles
    )


def _thumbnails(recording: Recording) -> str:
    encoded = [row for row in recording.rows if row.encoded]
    shown = [row for row in encoded if row.moment in recording.thumbnails]
    if not shown:
        return "<p>No moment was encoded, or no picture of one was kept.</p>"
    left_out = len(encoded) - len(shown)
    note = f"<p>{left_out} more encoded moments are left out, evenly.</p>" if left_out else ""
    several = len({row.stream for row in recording.rows}) > 1
    pictures = "".join(_figure(row, recording, named=several) for row in shown)
    return f'{note}<div class="pictures">{pictures}</div>'


def _figure(row: EmbeddingRow, recording: Recording, named: bool) -> str:
    stream = f"{html.escape(row.stream)}<br>" if named else ""
    novelty = "first" if math.isnan(row.novelty) else f"novelty {row.novelty:.2f}"
    return f"<figure>{_picture(row.moment, recording, stream, novelty)}{_name(row)}</figure>"


def _picture(moment: Moment, recording: Recording, before: str, after: str) -> str:
    """Show a moment, and under it its time between two texts."""
    seconds = (moment.stamp_ns - recording.start_ns) / 1e9
    data = base64.b64encode(recording.thumbnails[moment]).decode()
    return (
        f'<img alt="camera picture at {seconds:.2f} s" src="data:image/jpeg;base64,{data}">'
        f"<figcaption><span>{before}{seconds:.2f} s</span><span>{after}</span></figcaption>"
    )


_RECALLS = (
    f"<p>An encoded moment (orange frame), then up to {MATCHES} moments at least {GAP_NS / 1e9:.0f} s earlier whose "
    "embeddings are closest to its own, with their centred cosine: 1 is the same, 0 unrelated, below 0 unlike.</p>"
)


def _recalls(recording: Recording) -> str:
    """Show some moments, chosen evenly, each with the earlier ones that its embedding resembles most."""
    if not recording.trained:
        return "<p>Not shown: with random weights the embeddings do not say what is alike.</p>"
    found = list(recording.moments.most_similar_earlier(recording.thumbnails).items())
    if not found:
        return "<p>None: no picture was kept of two moments that are far enough apart.</p>"
    found = [(moment, matches) for moment, matches in found if len(matches) == MATCHES] or found
    chosen = [found[int(i)] for i in np.linspace(0, len(found) - 1, min(len(found), MAX_RECALLS)).round()]
    shown = "".join(_recall(moment, matches, recording) for moment, matches in chosen)
    return f'{_RECALLS}<div class="recalls">{shown}</div>'


def _recall(moment: Moment, matches: list[Match], recording: Recording) -> str:
    shown = [f'<figure class="now">{_picture(moment, recording, "", "")}</figure>']
    for match in matches:
        similarity = f"{round(match.similarity, 2) + 0.0:.2f}"  # no -0.00
        shown.append(f"<figure>{_picture(match.moment, recording, '', similarity)}</figure>")
    return f'<div class="recall">{"".join(shown)}</div>'


def _name(row: EmbeddingRow) -> str:
    return f"<figcaption><b>{html.escape(row.label)}</b><span>{row.score:.0%}</span></figcaption>" if row.label else ""


def _trials(trials: Sequence[Mapping[str, Any]]) -> str:
    """Tabulate the trials, in the order in which they were made."""
    rows = [
        (
            f"{trial['offered_hz']:.4g}",
            f"{trial['played_hz']:.4g}" + ("" if trial["held"] else " (late)"),
            f"{trial['achieved_hz'] or 0:.4g}",
            "yes" if trial["passed"] else "no",
            _ms(trial["end_to_end_ms"]["p50"]),
            _ms(trial["end_to_end_ms"]["p99"]),
            f"{trial['lateness_ms']['p99']:.1f} ms",
        )
        for trial in trials
    ]
    head = ("offered, Hz", "played", "in embeddings", "kept up", "sent to received, p50", "p99", "player late, p99")
    return _table([head, *rows]) if rows else ""


def _stages(recording: Recording) -> Iterator[tuple[str, str, str]]:
    """Tabulate the time of each stage; of encoding, where the encoder ran."""
    yield "stage", "p50", "p99"
    for stage in STAGES:
        rows = [row for row in recording.rows if row.encoded or stage != "encode"]
        times = [getattr(row, f"{stage}_ms") for row in rows]
        yield stage, _ms(percentile(times, 50)), _ms(percentile(times, 99))


def _table(rows: Iterable[tuple[object, ...]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_cell(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table>{body}</table>" if body else ""


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"
