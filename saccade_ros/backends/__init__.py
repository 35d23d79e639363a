"""Backends: one Protocol, one module per runtime; `load_backend` picks by config."""

import importlib

from saccade_ros.backends.base import Backend, BackendError
from saccade_ros.backends.manifest import choose_runtime, is_export
from saccade_ros.config import BackendConfig, EncoderConfig
from saccade_ros.runtimes import RUNTIMES


def load_backend(encoder: EncoderConfig, backend: BackendConfig) -> Backend:
    """Load the model into the runtime that `backend.name` names. Runtimes are imported only here.

    Raises:
        BackendError: the runtime or the device is not there, or the model is not in its form.
        WeightsError, ManifestError, ConfigError, ValueError: the model cannot be used; the message says why.
    """
    name = choose_runtime(encoder, backend)
    if is_export(encoder.model) == (name == "torch"):
        raise BackendError(
            f"backend.name is {name!r} but encoder.model {encoder.model!r} is "
            + ("an exported folder: set backend.name to auto" if name == "torch" else "none: make one (saccade export)")
        )
    runtime = RUNTIMES[name]
    try:
        module = importlib.import_module(f"saccade_ros.backends.{runtime.module}")
    except ImportError as missing:
        raise BackendError(
            f"backend.name is {name!r} but {missing.name} is not installed: see 'Install on a robot' in the README"
        ) from missing
    backend_type: type[Backend] = getattr(module, runtime.backend)
    return backend_type(encoder, backend)  # type: ignore[call-arg]  # a Protocol has no constructor


__all__ = ["Backend", "BackendError", "load_backend"]
