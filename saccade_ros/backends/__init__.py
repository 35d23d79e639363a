"""Backends: one Protocol, one module per runtime; `load_backend` picks by config."""

import importlib

from saccade_ros.backends.base import Backend, BackendError
from saccade_ros.backends.manifest import choose_runtime, is_export
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.runtimes import RUNTIMES, Runtime


def load_backend(encoder: EncoderConfig, backend: BackendConfig, fit: str = "crop") -> Backend:
    """Load the model into the runtime that `backend.name` names. Runtimes are imported only here.

    Args:
        fit: way that its pictures are made square (vision.fit), which is part of its encoder_id.

    Raises:
        BackendError: the runtime or the device is not there, or the model is not in its form.
        WeightsError, ManifestError, ConfigError, ValueError: the model cannot be used; the message says why.
    """
    name = choose_runtime(encoder, backend)
    runtime = RUNTIMES[name]
    _check_form(name, runtime, encoder.model, backend.precision)
    try:
        module = importlib.import_module(f"saccade_ros.backends.{runtime.module}")
    except ImportError as missing:
        raise BackendError(
            f"backend.name is {name!r} but {missing.name} is not installed: see 'Install on a robot' in the README"
        ) from missing
    backend_type: type[Backend] = getattr(module, runtime.backend)
    return backend_type(encoder, backend, fit=fit)  # type: ignore[call-arg]  # a Protocol has no constructor


def _check_form(name: str, runtime: Runtime, model: str, precision: str) -> None:
    """Refuse a model in a form that the runtime does not take, or a precision that it has in another form only."""
    exported = is_export(model)
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
