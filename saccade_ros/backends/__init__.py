"""What runs the encoder. One Protocol, one module per runtime; `load_backend` picks by config."""

from saccade_ros.backends.base import Backend, BackendError
from saccade_ros.config import BackendConfig, EncoderConfig


def load_backend(encoder: EncoderConfig, backend: BackendConfig) -> Backend:
    """Load the model into the runtime that `backend.name` names. Runtimes are imported only here.

    Raises:
        BackendError: the runtime or the device is not there.
        WeightsError, ConfigError, ValueError: the model cannot be used; the message says why.
    """
    try:
        from saccade_ros.backends.torch_backend import TorchBackend
    except ImportError as missing:
        raise BackendError(
            f"backend.name is {backend.name!r} but {missing.name} is not installed: "
            "see 'Install on a robot' in the README"
        ) from missing
    return TorchBackend(encoder, backend)


__all__ = ["Backend", "BackendError", "load_backend"]
