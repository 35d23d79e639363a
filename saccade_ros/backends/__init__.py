"""Backends: one Protocol, one module per runtime; `load_backend` picks by config."""

import importlib
from dataclasses import replace

from saccade_ros.backends.base import Backend, BackendError
from saccade_ros.backends.choice import choose
from saccade_ros.backends.manifest import is_export
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.runtimes import RUNTIMES


def load_backend(encoder: EncoderConfig, backend: BackendConfig, fit: str = "crop") -> Backend:
    """Load the model into the runtime that `backend.name` names. Runtimes are imported only here.

    Args:
        fit: way that its pictures are made square (vision.fit), which is part of its encoder_id.

    Raises:
        BackendError: the runtime or the device is not there, or the model is not in its form.
        WeightsError, ManifestError, ConfigError, ValueError: the model cannot be used; the message says why.
    """
    if backend.name != "auto":
        _check_form(backend.name, encoder.model, backend.precision)
    choice = choose(encoder, backend)
    name, runtime = choice.runtime, RUNTIMES[choice.runtime]
    if backend.device not in ("auto", *runtime.devices):
        raise BackendError(
            f"backend.device is {backend.device!r}, but {name} runs on {', '.join(runtime.devices)} only: set one of "
            "these, or auto"
        )
    try:
        module = importlib.import_module(f"saccade_ros.backends.{runtime.module}")
    except ImportError as missing:
        raise BackendError(
            f"backend.name is {name!r} but {missing.name} is not installed: see 'Install on a robot' in the README"
        ) from missing
    backend_type: type[Backend] = getattr(module, runtime.backend)
    settings = replace(backend, name=name, precision=choice.precision)
    loaded = backend_type(encoder, settings, fit=fit)  # type: ignore[call-arg]  # a Protocol has no constructor
    why = " ".join(filter(None, (choice.why, loaded.info.choice)))
    loaded.info = replace(loaded.info, choice=why)  # type: ignore[misc]  # read-only for users of the Protocol alone
    return loaded


def _check_form(name: str, model: str, precision: str) -> None:
    """Refuse a model in a form that the runtime does not take, or a precision that it has in another form only."""
    runtime, exported = RUNTIMES[name], is_export(model)
    if exported and not runtime.export_format:
        problem = "an exported folder: set backend.name to auto"
    elif not exported and not runtime.checkpoint_precisions:
        problem = "none: make one (saccade export)"
    elif not exported and precision not in ("auto", *runtime.checkpoint_precisions):
        raise BackendError(
            f"backend.precision is {precision!r}: of a checkpoint {name} computes "
            f"{', '.join(runtime.checkpoint_precisions)}; other precisions come from an export (saccade export)"
        )
    else:
        return
    raise BackendError(f"backend.name is {name!r} but encoder.model {model!r} is {problem}")


__all__ = ["Backend", "BackendError", "load_backend"]
