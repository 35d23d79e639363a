"""Draw the pictures of the docs from the records, with the functions that draw them for a study's user. `make docs`.

docs/report.png is a screenshot of the report that `make demo` writes, and is taken by hand.
"""

import json
from pathlib import Path

from saccade_ros.studies.economies_pictures import draw as draw_economies
from saccade_ros.studies.gaze_pictures import draw_tradeoff
from saccade_ros.studies.plots import draw_calibration, draw_fidelity, draw_gates, draw_usefulness
from saccade_ros.train.session import draw_curve

DOCS = Path(__file__).parent
PICTURES = {
    "calibration": ("calibration_default", draw_calibration),
    "gates": ("gates_default", draw_gates),
    "fidelity": ("fidelity_default", draw_fidelity),
    "gaze": ("gaze_default", draw_tradeoff),
    "economies": ("economies_default", draw_economies),
    "usefulness": ("usefulness_default", draw_usefulness),
    "adapter": ("adapter_default", draw_curve),
}


def main() -> None:
    """Draw every picture; the same record gives the same bytes."""
    for name, (record, draw) in PICTURES.items():
        found = json.loads((DOCS / "results" / f"{record}.json").read_text(encoding="utf-8"))
        draw(found, DOCS / f"{name}.png")


if __name__ == "__main__":
    main()
