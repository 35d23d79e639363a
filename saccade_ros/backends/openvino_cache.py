"""Compiled graphs of OpenVINO, kept from one start to the next.

OpenVINO's own cache computes with whatever a damaged file holds. Here a file begins with the SHA-256 of the rest, and
is named after all that the compiled graph depends on; one that is not as it was written is compiled and written again.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import openvino as ov

from saccade_ros.storage import StorageError, write_file

_DIGEST_BYTES = 32


class CompiledCache:
    """Compiled graphs in a folder; where that cannot be written, every graph is compiled.

    Args:
        folder: made when it is needed.
    """

    def __init__(self, core: ov.Core, folder: Path) -> None:
        self._core, self._folder = core, folder

    def compile(
        self, graph: ov.Model, device: str, settings: Mapping[str, Any], sources: Sequence[str]
    ) -> ov.CompiledModel:
        """Find a compiled graph, or compile it and keep it.

        Args:
            sources: SHA-256 of each file that the graph was read from.

        Raises:
            RuntimeError: OpenVINO cannot.
        """
        kept = self._folder / f"{self._key(device, settings, sources)}.blob"
        if blob := _read(kept):
            with suppress(RuntimeError):  # of a build of the same version that reads it otherwise
                return self._core.import_model(blob, device, dict(settings))
        compiled = self._core.compile_model(graph, device, dict(settings))
        _write(kept, compiled)
        return compiled

    def _key(self, device: str, settings: Mapping[str, Any], sources: Sequence[str]) -> str:
        chip = self._core.get_property(device, "FULL_DEVICE_NAME")
        parts = [*sources, ov.__version__, device, chip, dict(settings)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _read(kept: Path) -> bytes:
    """The compiled graph in a file; empty if there is none, or not as it was written."""
    try:
        content = kept.read_bytes()
    except OSError:
        return b""
    digest, blob = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return blob if hashlib.sha256(blob).digest() == digest else b""


def _write(kept: Path, compiled: ov.CompiledModel) -> None:
    # A convenience: without it the next start only takes longer. Not every device can give a compiled graph away.
    with suppress(StorageError, RuntimeError):
        compiled.export_model(stream := io.BytesIO())
        blob = stream.getvalue()
        write_file(kept, hashlib.sha256(blob).digest() + blob)
