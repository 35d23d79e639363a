"""Report of a replay: one HTML page with everything inside, and its totals as JSON."""

import base64
import html
import math
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template

import cv2

from saccade_ros.frames import Picture
from saccade_ros.replay.plots import latency_plot, novelty_timeline
from saccade_ros.replay.recording import EmbeddingRow, Recording
from saccade_ros.storage import write_file, write_json
from saccade_ros.vision.ledger import DROP_CAUSES

THUMBNAIL_SIDE = 160  # pixels


def save_report(recording: Recording, folder: Path) -> list[Path]:
    """Write report.html and summary.json into `folder`; return their paths."""
    page, summary = folder / "report.html", folder / "summary.json"
    write_file(page, render(recording))
    write_json(summary, recording.summary())
    return [page, summary]


def thumbnail(picture: Picture) -> bytes:
    """Shrink an RGB picture (height, width, 3) to a small JPEG of the same aspect."""
    height, width, _ = picture.shape
    scale = THUMBNAIL_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def render(recording: Recording) -> str:
    """Render the page. It refers to nothing outside itself."""
    template = Template((files("saccade_ros.replay") / "report.html").read_text(encoding="utf-8"))
    weights = str(recording.environment.get("weights", ""))
    return template.substitute(
        source=html.escape(str(recording.environment.get("source", "replay"))),
        headline=html.escape(_headline(recording)),
        headline_class="good" if recording.totals.balanced else "bad",
        banner=_RANDOM_BANNER if "RANDOM" in weights else "",
        tiles=_tiles(recording),
        novelty=novelty_timeline(recording),
        latency=latency_plot(recording),
        thumbnails=_thumbnails(recording),
        drops=_table((cause, count, DROP_CAUSES.get(cause, "")) for cause, count in _drops(recording))
        or "<p>None: every frame received is in an embedding.</p>",
        gate=_table(
            (name.replace("_", " "), value, GATE_FIGURES.get(name, "")) for name, value in recording.gate.items()
        )
        or "<p>It told nothing.</p>",
        environment=_table(sorted(recording.environment.items())),
    )


# What the figures of Recording.gate mean.
GATE_FIGURES = {
    "mode": "fixed: gate.tau as it is; budget: moved to hold the budget; off",
    "tau": "at the end of the replay",
    "clamp": "the limit that holds tau, if any",
    "budget_encoded_fraction": "of the last 30 s of tubelets",
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

_RANDOM_BANNER = (
    '<p class="banner"><strong>Random weights.</strong> Timings and the gate’s behaviour are real, '
    "the embeddings mean nothing yet.</p>"
)


def _headline(recording: Recording) -> str:
    totals, tubelets = recording.totals, len(recording.rows)
    if not totals.balanced:
        return (
            f"The accounts do not balance: {totals.frames_in} frames in, {totals.frames_used} used, {totals.dropped} "
            f"dropped; {totals.published} embeddings published, {totals.received} received."
        )
    if not tubelets:
        return "No tubelet was completed, so there is nothing to show."
    saved = 1 - recording.encoded / tubelets
    return f"{saved:.0%} of the encoder’s work saved, and every frame and embedding accounted for."


def _tiles(recording: Recording) -> str:
    summary = recording.summary()
    latency = summary["latency_ms"]
    tiles = (
        ("frames in", summary["frames_in"], ""),
        ("frames used", summary["frames_used"], f"{recording.totals.dropped} dropped"),
        ("tubelets", summary["tubelets"], f"{summary['received']} received"),
        ("encoded", summary["encoded"], "" if summary["encode_rate"] is None else f"{summary['encode_rate']:.0%}"),
        ("skipped", summary["skipped"], "embedding reused"),
        ("latency p50", _ms(latency["p50"]), f"p95 {_ms(latency['p95'])}<br>p99 {_ms(latency['p99'])}"),
    )
    return "".join(
        f'<div class="tile"><span>{name}</span><b>{value}</b><small>{note or "&nbsp;"}</small></div>'
        for name, value, note in tiles
    )


def _thumbnails(recording: Recording) -> str:
    encoded = [row for row in recording.rows if row.encoded]
    shown = [row for row in encoded if row.stamp_ns in recording.thumbnails]
    if not shown:
        return "<p>No moment was encoded, or no picture of one was kept.</p>"
    left_out = len(encoded) - len(shown)
    note = f"<p>{left_out} more encoded moments are left out, evenly.</p>" if left_out else ""
    several = len({row.stream for row in recording.rows}) > 1
    pictures = "".join(_figure(row, recording, named=several) for row in shown)
    return f'{note}<div class="pictures">{pictures}</div>'


def _figure(row: EmbeddingRow, recording: Recording, named: bool) -> str:
    seconds = (row.stamp_ns - recording.start_ns) / 1e9
    stream = f"{html.escape(row.stream)}<br>" if named else ""
    novelty = "first" if math.isnan(row.novelty) else f"novelty {row.novelty:.2f}"
    data = base64.b64encode(recording.thumbnails[row.stamp_ns]).decode()
    return (
        f'<figure><img alt="camera picture at {seconds:.2f} s" src="data:image/jpeg;base64,{data}">'
        f"<figcaption><span>{stream}{seconds:.2f} s</span><span>{novelty}</span></figcaption>{_name(row)}</figure>"
    )


def _name(row: EmbeddingRow) -> str:
    return f"<figcaption><b>{html.escape(row.label)}</b><span>{row.score:.0%}</span></figcaption>" if row.label else ""


def _drops(recording: Recording) -> list[tuple[str, int]]:
    return sorted(((cause, n) for cause, n in recording.totals.frames_dropped.items() if n), key=lambda item: -item[1])


def _table(rows: Iterable[tuple[object, ...]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_cell(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table>{body}</table>" if body else ""


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"
