"""What the README and the message files say is what the code does."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from saccade_ros.config import Config
from saccade_ros.vision.ledger import DROP_CAUSES
from saccade_ros.vision.malformed import CAUSES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def as_shown(default: object) -> str:
    if default == "":
        return '""'
    if isinstance(default, bool):
        return str(default).lower()
    return f"[{', '.join(default)}]" if isinstance(default, tuple) else str(default) or '""'


def test_readme_lists_every_parameter_with_its_default():
    table = dict(re.findall(r"^\| `(\w+\.\w+)` \| `([^`]+)` \|", README, re.MULTILINE))
    expected = {f"{s.name}.{k.name}": as_shown(k.default) for s in fields(Config) for k in fields(s.default)}
    assert table == expected


def test_readme_names_every_drop_cause():
    assert {cause for cause in DROP_CAUSES if f"`{cause}`" not in README} == set()


def test_every_malformed_cause_has_an_account():
    assert set(CAUSES) <= set(DROP_CAUSES)


@pytest.mark.parametrize("name", ["Embedding.msg", "EncoderInfo.msg", "NoveltyEvent.msg"])
def test_every_message_field_is_documented(name):
    lines = (ROOT / "msg" / name).read_text(encoding="utf-8").splitlines()
    declared = [line for line in lines if re.match(r"[\w/\[\]]+ \w+", line)]
    assert declared
    assert [line for line in declared if "#" not in line] == []


@pytest.mark.parametrize("window", [8, 32])
def test_readme_tells_the_recorded_steps(window):
    result = json.loads((ROOT / f"docs/results/step_vitl_w{window}.json").read_text(encoding="utf-8"))
    (part,) = result["windows"]
    assert {row["batch"] for row in part["steps"]} >= {1}
    for row in part["steps"]:
        name = row["precision"] + (f", {row['batch']} streams in a step" if row["batch"] > 1 else "")
        times = f"{row['per_stream_ms']:.0f} | {row['floor_ms'] / row['batch']:.0f}"
        ratios = " | ".join(f"{row['speedup'][full]:.1f}x" for full in ("fp32", "bf16"))
        cosine = ", ".join(f"{row['centred_cosine'][key]:.5f}" for key in ("mean", "worst"))
        assert f"| {window} | {name} | {times} | {ratios} | {cosine} |" in README


def test_fidelity_figures_are_the_recorded_ones():
    page = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "docs/results/fidelity_small.json").read_text(encoding="utf-8"))
    table = re.findall(
        r"^\| (?:W = (\d), )?r = (\d)[^|]*\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", page, re.MULTILINE
    )
    assert len(table) == 5
    rows = {(row["window"], row["recompute"]): row for row in record["fidelity"]}
    for window, recompute, *figures in table:
        row = rows[int(window or 8), int(recompute)]
        assert figures == [f"{row['ms']:.1f}", *(f"{row[key]:.3f}" for key in ("mean", "p5", "worst"))]
    assert record["forgetting"][0]["forgotten_after"]["0.1"] == 14
    assert record["forgetting"][0]["receptive_field"] == 29


def test_adapter_figures_are_the_recorded_ones():
    page = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
    for name in ("adapter_small", "adapter_small_fast"):
        record = json.loads((ROOT / f"docs/results/{name}.json").read_text(encoding="utf-8"))
        first, *_, last = (row["gaps"] for row in record["history"])
        gaps = " | ".join(f"{before:.4f} | {after:.4f}" for before, after in zip(first, last, strict=True))
        assert f"[{record['learning_rate']:g}, {record['steps']} steps](results/{name}.json) | {gaps} |" in page


def test_readme_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_readme_python_runs(capsys):
    """As written, but for the checkpoint, which is not here, the camera, and the classifier's numbers."""
    import numpy as np
    from scenes import frames_of, textured, tiny_config

    stream, head = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert stream.count("\n") <= 14, "a dozen lines"
    frames = list(frames_of([textured(), textured(seed=1)] * 20))
    names = {"my_camera": [(frame.stamp_ns, frame.picture) for frame in frames]}
    exec(stream.replace('"models/vitl"', '"tiny"'), names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("nan (192,)")
    assert lines[-1].startswith("40 ")
    names |= {"config": tiny_config(), "frames": frames, "weight": np.eye(3, 192), "bias": np.zeros(3)}
    exec(head, names)
    named = capsys.readouterr().out.splitlines()
    assert len(named) == 20
    assert {line.split()[0] for line in named} <= {"reach", "grasp", "lift"}


def test_readme_tells_the_recorded_cost_and_fidelity_of_the_gate():
    cost = json.loads((ROOT / "docs/results/gate_cost_vitl_w8.json").read_text(encoding="utf-8"))
    assert f"{cost['skip_ms']:.1f} ms, {cost['open_ms']:.1f} ms: {cost['gate_fraction']:.2%} of the step" in README
    rows = json.loads((ROOT / "docs/results/gates_tiny.json").read_text(encoding="utf-8"))["rows"]
    for row in rows:
        p5 = [f"{row['gates'][name]['p5']:.3f}" for name in ("surprise", "pixel difference", "previous tubelet")]
        assert f"| {row['name']} | {' | '.join(p5)} |" in README
    verdicts = {row["name"]: row["verdict"] for row in rows}
    assert {verdicts[name] for name in ("slow pan", "small distant mover", "exposure step")} == {"better"}
