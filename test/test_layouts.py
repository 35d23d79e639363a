"""Layouts of viewers name topics and fields that there are."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config"


def published() -> set[str]:
    """Topics of the node at its defaults, as its policy has them, which is checked against the real graph."""
    policy = ElementTree.parse(CONFIG / "encoder.policy.xml")
    return {topic.text or "" for group in policy.iter("topics") for topic in group}


def test_foxglove_layout_shows_what_is_published():
    layout = json.loads((CONFIG / "foxglove.json").read_text(encoding="utf-8"))
    panels = layout["configById"]
    images = {panel["imageMode"]["imageTopic"] for panel in panels.values() if "imageMode" in panel}
    assert images <= published()
    fields = re.findall(r"^\S+ (\w+)", (ROOT / "msg" / "Embedding.msg").read_text(encoding="utf-8"), re.MULTILINE)
    for path in (path["value"] for panel in panels.values() for path in panel.get("paths", ())):
        topic, _, field = path.partition(".")
        assert topic in published()
        assert field in fields
    assert set(re.findall(r'"(\w+!\w+)"', json.dumps(layout["layout"]))) == set(panels)


def test_rviz_layout_shows_what_is_published_as_it_is_published():
    layout = yaml.safe_load((CONFIG / "encoder.rviz").read_text(encoding="utf-8"))
    topics = [display["Topic"] for display in layout["Visualization Manager"]["Displays"]]
    assert {topic["Value"] for topic in topics} <= published()
    assert {topic["Reliability Policy"] for topic in topics} == {"Best Effort"}
