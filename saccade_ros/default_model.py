"""The default model: its name, its folder, and what it is good for. Imports no torch."""

from pathlib import Path

NAME = "default"
SOURCE = "default model, trained (models/default)"
V_JEPA_2 = "facebook/vjepa2-vitl-fpc64-256"
ADVICE = (
    "The default model is small: good at telling scenes and motion apart, weak in semantics (what things are). For "
    f"these set encoder.model to a V-JEPA 2, such as {V_JEPA_2}."
)

_PACKAGE = Path(__file__).parent
PLACES = (_PACKAGE / "models" / NAME, _PACKAGE.parent / "models" / NAME)  # installed by pip or colcon; source tree


def locate(model: str) -> str:
    """Return the folder that the default model's name stands for, and any other model as it is.

    The name wins over a folder of the same name; write ./default for that one.
    """
    if model != NAME:
        return model
    return str(next((place for place in PLACES if place.is_dir()), PLACES[0]))


def centre(model: str) -> str:
    """Return the mean embedding of many recordings that comes with the default model, as text (plan/centre.py).

    Empty for any other model.
    """
    return (Path(locate(model)) / "centre.txt").read_text(encoding="ascii").strip() if model == NAME else ""


def advice(weights: str) -> str:
    """Say what the model is good for, if `weights`, their source as EncoderInfo has it, are the default model's."""
    return ADVICE if weights.startswith(SOURCE) else ""
