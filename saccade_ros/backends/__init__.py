"""Backends: one Protocol, one module per runtime; `load_backend` picks by config."""

import importlib

from saccade_ros.backends.base import Backend, BackendError
from saccade_ros.backends.manifest import choose_runtime, is_export
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
    name = choose_runtime(encoder, backend)
    runtime, exported = RUNTIMES[name], is_export(encoder.model)
    if exported != bool(runtime.export_format):
        problem = "an exported folder: set backend.name to auto" if exported else "none: make one (saccade export)"
        raise BackendError(f"backend.name is {name!r} but encoder.model {encoder.model!r} is {problem}")
    try:
        module = importlib.import_module(f"saccade_ros.backends.{runtime.module}")
    except ImportError as missing:
        raise BackendError(
            f"backend.name is {name!r} but {missing.name} is not installed: see 'Install on a robot' in the README"
        ) from missing
    backend_type: type[Backend] = getattr(module, runtime.backend)
    return backend_type(encoder, backend, fit=fit)  # type: ignore[call-arg]  # a Protocol has no constructor


__all__ = ["Backend", "BackendError", "load_backend"]
