"""Write what is generated: config/encoder.yaml, docs/parameters.md, and the marked blocks of every page. `make docs`.

A block is written between `<!-- generated: NAME -->` and `<!-- end -->`, in any page of pages_of; NAME is one
of figures.BLOCKS. Markers on lines of their own make lines, indented as the first marker is; within a line, a phrase.
"""

import re
import textwrap
from dataclasses import fields
from pathlib import Path

from figures import BLOCKS, as_text

from saccade_ros.config import Config
from saccade_ros.knobs import Setting, settings_of

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"( *)(<!-- generated: ([\w-]+) -->)(\n?).*?(<!-- end -->)", re.DOTALL)
WIDTH = 120

YAML_HEAD = """\
# Every parameter of the encoder node, at its default. Copy, change, and give it with params_file:=PATH.
# `ros2 param describe /saccade_encoder gate.tau` tells the same of a running node. Parameters marked (live) may be
# changed while it runs; all others at configure. Written by `make docs` from saccade_ros/config.py.

/**:
  ros__parameters:
"""
YAML_TAIL = """
    # The camera is subscribed to best effort, as sensors publish. Where it must not lose a frame on the way:
    # qos_overrides:
    #   /camera/image_raw:
    #     subscription:
    #       reliability: reliable
    #       depth: 10
"""
PARAMETERS_PAGE = """\
# Parameters

Of the encoder node, of `params_file`, and of every command that takes `--set NAME=VALUE`. **Live** ones may be changed
while the node is active; all others are read when it starts. [config/encoder.yaml](../config/encoder.yaml) holds every
parameter at its default.

<!-- generated: parameters -->
<!-- end -->
"""


def main() -> None:
    """Write every generated file that is not as it should be."""
    for file, text in generated().items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(file.relative_to(ROOT))


def generated() -> dict[Path, str]:
    """Return the text of every file that is generated, in whole or in part."""
    parameters = ROOT / "docs" / "parameters.md"
    pages = {page: page.read_text(encoding="utf-8") for page in pages_of(ROOT)}
    texts = {page: fill(text) for page, text in pages.items() if MARKED.search(text)}
    return {**texts, parameters: fill(PARAMETERS_PAGE), ROOT / "config" / "encoder.yaml": encoder_yaml()}


def pages_of(root: Path) -> list[Path]:
    """Return the README, the default model's card, and every page of docs/."""
    return [root / "README.md", root / "models" / "default" / "README.md", *sorted((root / "docs").glob("*.md"))]


def fill(page: str) -> str:
    """Write the blocks that are marked in a page.

    Raises:
        KeyError: a block has no name that there is.
    """

    def block(marked: "re.Match[str]") -> str:
        indent, start, name, newline, end = marked.groups()
        text = BLOCKS[name]()
        if newline:
            text, end = f"\n{textwrap.indent(text, indent)}\n", f"{indent}{end}"
        return f"{indent}{start}{text}{end}"

    return MARKED.sub(block, page)


def encoder_yaml() -> str:
    """Write the parameter file of the encoder node."""
    sections = []
    for section in fields(Config):
        lines = [f"    {section.name}:"]
        for setting in settings_of(section.type):  # type: ignore[arg-type]  # each section is a dataclass
            lines += _described(setting)
        sections.append("\n".join(lines) + "\n")
    return YAML_HEAD + "\n".join(sections) + YAML_TAIL


def _described(setting: Setting) -> list[str]:
    """Return a parameter's lines: its description as a comment, then its default."""
    indent, live = "      # ", " (live)" if setting.knob.live else ""
    comment = textwrap.wrap(setting.text + live, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return [*comment, f"      {setting.name}: {as_text(setting.default)}"]


if __name__ == "__main__":
    main()
