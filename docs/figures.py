"""Tables and sentences of the README and the docs, written from the records in docs/results and from the code.

Each function is a block: `<!-- generated: NAME -->` in any page is followed by what the function NAME returns.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from saccade_ros.config import Config
from saccade_ros.faults import KINDS, POINTS
from saccade_ros.knobs import settings_of
from saccade_ros.replay.limits import FIGURES
from saccade_ros.vision.ledger import DROP_CAUSES

RESULTS = Path(__file__).parent / "results"
PACKAGE = Path(__file__).parents[1] / "saccade_ros"
GATES = ("predicted", "pixels", "previous", "even")  # by gate.policy
CARD_MODELS = ("default", "vitb", "vitl")
GAZE_RULES = ("greedy", "uniform", "random")
CAMERAS = ("cameras_default", "cameras_default_torch")


def parameters() -> str:
    """Every parameter of the encoder node."""
    rows = []
    for setting in settings_of(Config):
        live = "**live**" if setting.knob.live else ""
        rows.append((f"`{setting.name}`", f"`{as_text(setting.default)}`", live, setting.text))
    return _table(("parameter", "default", "", "meaning"), rows)


def drop_causes() -> str:
    """Every cause that a frame is dropped for."""
    return _table(("cause", "meaning"), ((f"`{cause}`", meaning) for cause, meaning in DROP_CAUSES.items()))


def compared_figures() -> str:
    """Figures that `saccade compare` knows."""
    return ", ".join(f"`{name}`" for name in FIGURES)


def fault_points() -> str:
    """Every point that a fault can be injected at."""
    return _table(("point", "when"), ((f"`{point}`", meaning) for point, meaning in POINTS.items()))


def fault_kinds() -> str:
    """Every kind of fault."""
    return _table(("kind", "what happens"), ((f"`{kind}`", meaning) for kind, meaning in KINDS.items()))


def step() -> str:
    """Time and fidelity of the cached step of ViT-L at the default window, one stream, on each machine."""
    rows = (
        (_machine(record, file), *row[1:])
        for file, record in _of_machines("steps")
        for row in _step_rows(record, batches=(1,))
    )
    return _table(("machine", *_STEP_HEAD[1:]), rows)


def steps() -> str:
    """Time and fidelity of the cached step of ViT-L in every variant that was measured with AMX."""
    records = [_record(name) for name in ("steps/intel-xeon-processor-2-cores-amx-int8", "step_vitl_w32")]
    return _table(_STEP_HEAD, (row for record in records for row in _step_rows(record, batches=(1, 4))))


_STEP_HEAD = (
    "window", "step", "ms", "floor, ms", "against re-encode in fp32", "in bf16",
    "centred cosine to fp32: mean, worst of 4W tubelets",
)  # fmt: skip


def _step_rows(record: dict[str, Any], batches: Sequence[int]) -> Iterator[tuple[object, ...]]:
    for part in record["windows"]:
        for precision, times in part["reencode_ms"].items():
            yield part["window"], f"re-encode by transformers, {precision}", f"{times['median']:.0f}", "", "", "", ""
        yield from ((part["window"], *_step_figures(row)) for row in part["steps"] if row["batch"] in batches)
        measured = (row for row in part.get("runtimes", ()) if "failure" not in row)
        yield from ((part["window"], *_runtime_figures(row)) for row in measured)


def _step_figures(row: dict[str, Any]) -> tuple[str, ...]:
    name = f"cached, {row['precision']}" + (f", {row['batch']} streams in a step" if row["batch"] > 1 else "")
    times = (f"{row['per_stream_ms']:.0f}", f"{row['floor_ms'] / row['batch']:.0f}")
    return (name, *times, *_step_ratios(row), _step_cosines(row))


def _runtime_figures(row: dict[str, Any]) -> tuple[str, ...]:
    name = f"cached, {row['runtime']} {row['precision']}"
    return (name, f"{row['step_ms']['median']:.0f}", "", *_step_ratios(row), _step_cosines(row))


def _step_ratios(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{row['speedup'][full]:.1f}x" if full in row["speedup"] else "" for full in ("fp32", "bf16"))


def _step_cosines(row: dict[str, Any]) -> str:
    return ", ".join(f"{row['centred_cosine'][key]:.5f}" for key in ("mean", "worst"))


def cards() -> str:
    """Row of each machine that a bench card was made on: the fastest of each model, dense and sparse."""
    rows = []
    for file, card in _of_machines("cards"):
        models = {model["model"]: _fastest(model) for model in card["models"]}
        decode = {(row["size"], row["form"]): row["tubelet_ms"] for row in card["decoding"]}
        jpeg = f"{decode['720p', 'jpeg']:.1f}" if decode else "–"
        name = _machine(card, file) + (" (busy)" if card["busy"] else "")
        rows.append((name, *(models.get(model, "–") for model in CARD_MODELS), jpeg))
    head = (f"{model}: ms dense, 25 %, 10 %" for model in CARD_MODELS)
    return _table(("machine", *head, "720p JPEG to input, ms"), rows)


def _of_machines(folder: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Files and records of a folder that has one for each machine."""
    return ((file, json.loads(file.read_text(encoding="utf-8"))) for file in sorted((RESULTS / folder).glob("*.json")))


def _machine(record: dict[str, Any], file: Path) -> str:
    """Processor and cores, with a link from the repository's root, so that a block works in every page."""
    machine = record["machine"].rpartition(", Linux")[0] or record["machine"]
    return f"[{machine}](/docs/results/{file.parent.name}/{file.name})"


def _fastest(model: dict[str, Any]) -> str:
    """Times of the fastest row of a model, and what computed it."""
    if not model["steps"]:
        return "–"
    row = min(model["steps"], key=lambda row: float(row["dense_ms"]["median"]))
    times = (row["dense_ms"]["median"], *(part["median"] for part in row["sparse_ms"]))
    shown = (f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}" for ms in times)
    return f"{', '.join(shown)} ({row['runtime']} {row['precision']})"


def gate_cost() -> str:
    """Cost of the gate beside the cached step."""
    record = _record("gate_cost_vitl_w8")
    return (
        f"The gate costs {record['skip_ms']:.1f} ms for a skipped tubelet and {record['open_ms']:.1f} ms for an "
        f"encoded one, {record['gate_fraction']:.2%} of the step in {record['precision']}; the patch embedding, which "
        f"an encoded tubelet needs anyway, {record['embed_ms']:.1f} ms more."
    )


def gate_cost_default() -> str:
    """Cost of the gate beside the cached step of the default model."""
    record = _record("gate_cost_default")
    return f"{record['skip_ms']:.2f} ms for a skipped tubelet and {record['open_ms']:.2f} ms for an encoded one, " + (
        f"{record['gate_fraction']:.0%} of the default model's step of {record['step_ms']:.1f} ms"
    )


def gate_default() -> str:
    """Tubelets that the gate encodes at its defaults, at four frames per second and at every frame, and the oracle."""
    slow = _record("gate_rate_default")["clips"]
    rows = []
    for row in _record("gates_default")["rows"]:
        name, found, least = row["name"], row["at_tau"], row["oracle"]
        rate = f"{slow[name]['encode_rate']:.0%}" if name in slow else ""
        cosines = f"{found['mean']:.4f}", f"{found['p5']:.3f}", f"{least['p5']:.3f}"
        rows.append((name, rate, f"{found['rate']:.0%}", f"{least['rate']:.0%}", *cosines))
    head = ("scene or clip", "encoded at 4 frames/s", "at every frame", "by the oracle", "mean", "p5", "oracle's p5")
    return _table(head, rows)


def gates() -> str:
    """5th percentile of each policy at equal compute, at three fractions, and the oracle at its own."""
    rows = []
    for percent, name in ((5, "gates_5_default"), (15, "gates_default"), (30, "gates_30_default")):
        for row in _record(name)["rows"]:
            found, least = [row["gates"][gate] for gate in GATES], row["oracle"]
            best = max(gate["mean"] for gate in found[1:])
            means = f"{found[0]['mean']:.4f}, {best:.4f}"
            bound = f"{least['p5']:.3f} with {least['rate']:.0%}"
            p5 = (f"{gate['p5']:.3f}" for gate in found)
            rows.append((f"{percent} %", row["name"], *p5, bound, means, row["outcome"]))
    head = ("encoded", "scene or clip", *GATES, "oracle", "mean: predicted, best of the others", "predicted is")
    return _table(head, rows)


def calibration() -> str:
    """Outcome of a calibration: what the sweep promised, and what the gated stream kept."""
    record = _record("calibration_default")
    tuning, held_out = (_listed([clip["name"] for clip in record["recordings"][p]]) for p in ("tuning", "held_out"))
    promised, kept = record["chosen"]["held_out"], record["shadow"]
    return (
        f"Tuned on {tuning}, held out {held_out}: tau {record['tau']:.4f}, loss per change "
        f"{record['loss_per_change']:.3f}. On {held_out} {promised['below']:.1%} of the reused embeddings fall below "
        f"{record['target']:g} in the sweep (promised: {record['alpha']:.0%}), with {promised['rate']:.0%} of the "
        f"tubelets encoded; shadow evaluation of the gated stream finds a 5th percentile of {kept['fidelity_p5']:.4f} "
        f"with {kept['encode_rate']:.0%}. Rank correlation of loss expected and found: "
        f"{record['rank_correlation']:.2f}."
    )


def budget() -> str:
    """Encodes of budget mode on each clip from its start, and what shadow evaluation says of the rest."""
    rows = []
    for name, clip in _record("budget_default")["clips"].items():
        shadow = f"{clip['fidelity_mean']:.3f} ({clip['shadow_evaluations']})" if clip["shadow_evaluations"] else "–"
        rates = f"{clip['encode_rate']:.1%}", f"{clip['over_budget']:.1%}"
        rows.append((name, clip["tubelets"], clip["encoded"], *rates, shadow))
    head = ("clip", "tubelets", "encoded", "fraction", "over the budget", "shadow: mean cosine (evaluations)")
    return _table(head, rows)


def export() -> str:
    """Time and fidelity of an export's artifacts beside torch."""
    record = _record("export_vitl_w8")
    clips = [next(iter(found.values())) for found in record["parity"]]
    head = ("step", "ms", "times torch fp32", *(f"{clip['clip']} ({clip['tubelets']} tubelets)" for clip in clips))
    rows = []
    for name, ms in record["step_ms"].items():
        cosines = (_cosines(found[name]) if name in found else "" for found in record["parity"])
        rows.append((name, f"{ms:.0f}", f"{record['times_torch_fp32'][name]:.2f}", *cosines))
    return _table(head, rows)


def export_default() -> str:
    """Time of the default model's artifacts beside torch, and their fidelity by scene."""
    record = _record("export_default")
    names = list(record["step_ms"])
    rows: list[tuple[object, ...]] = [("ms", *(f"{record['step_ms'][name]:.1f}" for name in names))]
    for found in record["parity"]:
        clip = next(iter(found.values()))["clip"]
        rows.append((clip, *(_cosines(found[name]) if name in found else "" for name in names)))
    return _table(("", *names), rows)


def _cosines(parity: dict[str, Any]) -> str:
    return f"{parity['centred_cosine_mean']:.4f}, {parity['centred_cosine_worst']:.4f}"


def fidelity() -> str:
    """Fidelity of the default model by recompute and window."""
    rows = []
    for row in _record("fidelity_default")["fidelity"]:
        cosines = (f"{row[key]:.3f}" for key in ("mean", "p5", "worst"))
        rows.append((row["window"], row["recompute"], f"{row['ms']:.1f}", *cosines))
    return _table(("W", "r", "ms per tubelet", "mean", "p5", "worst"), rows)


def forgetting() -> str:
    """Fading of an event by recompute."""
    rows = []
    for row in _record("fidelity_default")["forgetting"]:
        after = row["forgotten_after"]
        rows.append((row["recompute"], after["0.1"], after["0.01"], after["0.001"], row["receptive_field"]))
    return _table(("r", "tubelets to a tenth", "to a hundredth", "to a thousandth", "receptive field"), rows)


def adapter() -> str:
    """Gap to the clip encoder before and after training a causal adapter."""
    rows, held_out = [], []
    for name in ("adapter_default",):
        record = _record(name)
        held_out = record["held_out"]
        first, *_, last = (row["gaps"] for row in record["history"])
        gaps = (f"{gap:.4f}" for pair in zip(first, last, strict=True) for gap in pair)
        # From the repository's root, so that the block works in every page.
        label = (
            f"[{record['learning_rate']:g}, {record['steps']} steps, seed {record['seed']}](/docs/results/{name}.json)"
        )
        rows.append((label, *gaps))
    columns = (column for clip in held_out for column in (f"{clip} before", "after"))
    return _table(("gap at r = 1; learning rate, steps, seed", *columns), rows)


def gaze() -> str:
    """What viewers see of each clip who are sent a part of the patches, by rule."""
    record = _record("gaze_default")
    by_key = {(row["clip"], row["setting"], row["rule"]): row for row in record["by_clip"]}
    rows = []
    for clip in (clip["name"] for clip in record["clips"]):
        found = [[by_key[clip, setting, rule] for rule in GAZE_RULES] for setting in ("ratio_0.10", "ratio_0.25")]
        psnr = (", ".join(f"{row['psnr_db']:.1f}" for row in of) for of in found)
        ssim = ", ".join(f"{row['ssim']:.3f}" for row in found[-1])
        error = [by_key[clip, "error", rule] for rule in GAZE_RULES]
        reached = (f"{error[0]['actual_ratio']:.0%}", ", ".join(f"{row['psnr_db']:.1f}" for row in error))
        rows.append((clip, *psnr, ssim, *reached))
    head = ("clip", "PSNR, 10% sent", "PSNR, 25% sent", "SSIM, 25% sent")
    return _table((*head, f"sent to reach {record['psnr_db']:g} dB", "PSNR with as many"), rows)


def economies() -> str:
    """Every way to compute less of a stream, beside dense."""
    record = _record("economies_default")
    names = [clip["name"] for clip in record["clips"]]
    rows = []
    for row in record["rows"]:
        shares = [row["clips"][name]["share"] for name in names]
        shown = (
            f"{shares[0]:.0%}" if len(set(shares)) == 1 else ", ".join(f"{100 * share:.0f}" for share in shares) + " %"
        )
        p5 = ", ".join(f"{row['clips'][name]['p5']:.3f}" for name in names)
        times = f"{row['ms_p50']:.1f}, {row['ms_p95']:.0f}", f"{row['time_to_dense']:.0%}"
        cost = *times, f"{row['gflop']:.2f}", f"{row['cache_bytes'] / 1e6:.1f}"
        ends = f"{row['worst']:.3f}", f"{row['stability']:.3f}", f"{row['worst_age_s']:.1f}"
        rows.append((row["name"], shown, f"{row['share_static']:.0%}", *cost, f"{row['mean']:.4f}", p5, *ends))
    head = (
        "variant",
        "tokens computed",
        "still scene",
        "ms: p50, p95",
        "time to dense",
        "GFLOP",
        "ring, MB",
        "mean",
        "p5",
        "worst",
    )
    return _table((*head, "still: change", "age, s"), rows)


def economies_command() -> str:
    """The command that compared the economies."""
    return re.sub(r"\S*/", "", str(_record("economies_default")["command"]).partition(" --json")[0])


def economies_about() -> str:
    """What the table of economies was measured on, and what its columns are."""
    record = _record("economies_default")
    clips = _listed([f"{clip['name']} ({clip['tubelets']} tubelets)" for clip in record["clips"]])
    first, again = (row["ms_p50"] for row in (record["rows"][0], record["rows"][-1]))
    return (
        f"The {record['model']} model at every frame, window {record['window']}, {record['precision']}, "
        f"{record['threads']} threads of {record['machine']}; [record](results/economies_default.json). Tokens "
        f"computed and p5 are of {clips}, in this order. p5, mean and worst are of the centred cosine to dense, with "
        "one centre for all clips, after the first window. ms is the step alone, pooled over the clips, 0 where the "
        "embedding is reused; the machine was shared with other work, so p95 tells more of that than of the variant. "
        "Time to dense is the mean time over that of the dense variant it took turns with, 8 tubelets each, median of "
        f"the clips (p50 of the two dense ones: {first:.1f} and {again:.1f} ms). "
        "The still scene is generated, with noise: tokens computed there, and the embedding's change from step to "
        "step over its centred length. Age is that of the oldest token. The gates *as changed* compute as many tokens "
        "as `changed` on each clip, in whole tubelets. *KV-only* computes all tokens and reuses the keys and values "
        "of those that `changed` does not compute: by arithmetic that can make a step at most "
        f"{record['kv_bound']:.2f}x as fast here."
    )


def sparse_steps() -> str:
    """Times of dense and sparse steps of ViT-L, by machine."""
    rows = []
    for name in ("step_sparse_vitl_amx", "step_sparse_vitl_h200"):
        record = _record(name)
        graphs = {row["launch"] for row in record["windows"][0]["steps"]} >= {"graph"}
        steps = [row for row in record["windows"][0]["steps"] if row["launch"] == ("graph" if graphs else "eager")]
        dense = steps[0]["step_ms"]["median"]
        where = record["device"] if graphs else f"{record['machine'].partition(',')[0]}, {record['threads']} threads"
        for row in steps:
            share = "dense" if row["share"] is None else f"{row['share']:.0%} of the tokens"
            ms = row["step_ms"]["median"]
            rows.append((f"[{where}](results/{name}.json)", share, f"{ms:.3g}", f"{ms / dense:.0%}"))
    return _table(("machine", "step", "ms", "of dense"), rows)


def economies_merging() -> str:
    """What merging costs, and what positions are worth to it."""
    rows = {row["name"]: row for row in _record("economies_default")["rows"]}
    name, dense = [name for name in rows if name.startswith("merge")][-2], rows["dense"]
    at, scrambled = rows[name], rows[f"{name}, scrambled"]
    return (
        f"`{name}`, which leaves half of the tokens in the end, takes {at['gflop'] / dense['gflop']:.0%} of the "
        f"arithmetic, but {at['time_to_dense']:.0%} of the time of so small a model, at a p5 of "
        f"{at['p5']:.3f} or more; with scrambled positions, as the public reference has them, it falls to "
        f"{scrambled['p5']:.3f}."
    )


def economies_areas() -> str:
    """What areas save and cost."""
    rows = [row for row in _record("economies_default")["rows"] if row["family"] in ("areas", "dense")]
    dense, half, most = rows[0], rows[1], rows[2]
    return (
        f"{half['name'].capitalize()} layers take {half['gflop'] / dense['gflop']:.0%} of the arithmetic at a p5 of "
        f"{half['p5']:.3f} on the worst clip, in {most['name'].split(' in ')[1]} {most['gflop'] / dense['gflop']:.0%} "
        f"at {most['p5']:.3f}, and no less time. This model was not trained with them."
    )


def usefulness() -> str:
    """What the default model's embeddings are good for, beside controls and its teacher."""
    rows = []
    for row in _record("usefulness_default")["measures"]:
        found = [*(one["value"] for one in row["columns"].values()), next(iter(row["columns"].values()))["chance"]]
        rows.append((row["title"], *(f"{value:.3f}" for value in found)))
    columns = ["the default" if name == "encoder" else name for name in row["columns"]]
    return _table(("held-out measure", *columns, "chance"), rows)


def default_training() -> str:
    """How the default model was trained."""
    record = _record("default_training")
    first, last = record["history"][0], record["history"][-1]
    parts = ", ".join(f"{name} {first[name]:.2f} to {last[name]:.2f}" for name in first if name not in ("step", "loss"))
    views, tubelets = record["cache"]["views"], record["steps"] * record["batch"] * record["clip_tubelets"]
    return (
        f"{views} views of as many clips, 8 tubelets each; {record['steps']} steps, {tubelets / 1000:.0f} thousand "
        f"tubelets, AdamW at {record['learning_rate']:g}, averaged weights; {record['threads']} threads of "
        f"{record['machine']}, torch {record['torch']}. Parts of the loss, weighted, at step {first['step']:.0f} and "
        f"at the end: {parts} (motion's weight is tenfold there). "
        "[Record](../../docs/results/default_training.json)."
    )


def cameras() -> str:
    """Steps of several cameras in turn and as one, by runtime."""
    rows = []
    for record in map(_record, CAMERAS):
        ms = {(r["share"], r["cameras"], r["how"]): r["ms"]["median"] for r in record["steps"]}
        where = f"{record['backend']}, threads: {record['threads']}"
        for share, cameras, how in ms:
            if how == "as one":
                turn, one = ms[share, cameras, "in turn"], ms[share, cameras, "as one"]
                rows.append((where, f"{share:.0%}", cameras, f"{turn:.1f}", f"{one:.1f}", f"{one / turn:.2f}"))
    return _table(("runtime", "tokens computed", "cameras", "in turn, ms", "as one, ms", "ratio"), rows)


def cameras_about() -> str:
    """What the table of cameras was measured on."""
    record, links = _record(CAMERAS[0]), " ".join(f"[{name}](results/{name}.json)" for name in CAMERAS)
    return (
        f"Medians of {record['steps'][0]['ms']['runs']} for the {record['model']} model, {record['precision']}, window "
        f"{record['window']}, on {record['machine']} (records: {links}):"
    )


def soak() -> str:
    """What the soak of the default model found."""
    record = _record("soak_default")
    memory, p99 = record["resident_mb"], record["latency_p99_ms"]
    frames, embeddings = record["frames"], record["embeddings"]
    return (
        f"{record['minutes']:g} minutes with the {record['weights'].partition(',')[0]} on {record['machine']} "
        f"([record](results/soak_default.json)): {memory['warm']:.0f} MB resident once warm and {memory['end']:.0f} at "
        f"the end, {memory['per_minute']:+.2f} MB a minute; p99 {p99['earlier']:.0f} ms, then {p99['later']:.0f}; of "
        f"{frames['played']} frames {frames['received']} received, {frames['used']} used and the others dropped with "
        f"their cause; {embeddings['published']} embeddings published, {embeddings['received']} received."
    )


def files() -> str:
    """Every source file of the package, a table for each folder, with the first sentence of each."""
    sources = (path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".cpp", ".h"))
    folders: dict[str, list[tuple[str, str]]] = {}
    for file in sorted(sources, key=lambda path: (path.parent, path)):
        folder = file.parent.relative_to(PACKAGE.parent).as_posix()
        if file.name != "__init__.py":
            folders.setdefault(folder, []).append((f"`{file.name}`", _first_sentence(file)))
    return "\n\n".join(
        _table((f"`{folder}/`", _first_sentence(PACKAGE.parent / folder / "__init__.py")), rows)
        for folder, rows in folders.items()
    )


def _first_sentence(file: Path) -> str:
    """Return the first sentence of a file's docstring, or of its first comment; nothing of a file that is not there."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    told = ast.get_docstring(ast.parse(text)) if file.suffix == ".py" else text.partition("\n")[0].strip("/ ")
    return re.split(r"(?<=\.)(?<!al\.)\s", " ".join((told or "").partition("\n\n")[0].split()))[0]


BLOCKS = {
    function.__name__.replace("_", "-"): function
    for function in (
        parameters, drop_causes, compared_figures, fault_points, fault_kinds,
        cards, step, steps, gate_cost, gate_cost_default, gate_default, gates, calibration, budget,
        export, fidelity, export_default, forgetting, adapter, gaze, economies, economies_command,
        sparse_steps, economies_about, economies_merging, economies_areas, usefulness, default_training,
        cameras, cameras_about, soak, files,
    )
}  # fmt: skip


def as_text(default: Any) -> str:
    """Write a default as YAML does."""
    if isinstance(default, tuple):
        return f"[{', '.join(map(str, default))}]"
    return json.dumps(default) if isinstance(default, bool) or default == "" else str(default)


def _record(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
