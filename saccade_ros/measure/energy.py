"""Energy meters of the machine: RAPL of Intel and AMD processors, and the INA3221 sensors of a Jetson."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SYSFS = Path("/sys")


class Meter(ABC):
    """Meter of energy since it was found; `read` it at least once a second.

    Attributes:
        name: such as rapl:package-0.
        joules: used up to the last reading.
    """

    name: str
    joules = 0.0

    @abstractmethod
    def read(self) -> None:
        """Bring `joules` up to date; passed over if the meter cannot be read now."""


def find_meters(sysfs: Path = SYSFS) -> list[Meter]:
    """Find the meters that can be read; often RAPL is for root alone."""
    return [*_rapl(sysfs), *_ina(sysfs)]


class RaplMeter(Meter):
    """Counter of microjoules that wraps around. Raises OSError where it cannot be read."""

    def __init__(self, zone: Path) -> None:
        self.name = f"rapl:{_text(zone / 'name')}"
        self._counter, self._range = zone / "energy_uj", int(_text(zone / "max_energy_range_uj"))
        self._last = int(_text(self._counter))

    def read(self) -> None:
        """See Meter."""
        with suppress(OSError, ValueError):
            now = int(_text(self._counter))
            self.joules += ((now - self._last) % (self._range + 1)) / 1e6
            self._last = now


class InaMeter(Meter):
    """Channel of voltage (mV) and current (mA), integrated over time. Raises OSError where it cannot be read."""

    def __init__(self, chip: Path, channel: str) -> None:
        self.name = f"ina:{_text(chip / f'in{channel}_label')}"
        self._volts, self._amperes = chip / f"in{channel}_input", chip / f"curr{channel}_input"
        self._last = self._watts()

    def read(self) -> None:
        """See Meter."""
        with suppress(OSError, ValueError):
            now, before = self._watts(), self._last
            self.joules += (now[1] + before[1]) / 2 * (now[0] - before[0])
            self._last = now

    def _watts(self) -> tuple[float, float]:
        """Present time in seconds, and power."""
        watts = int(_text(self._volts)) * int(_text(self._amperes)) / 1e6
        return time.monotonic(), watts


def _rapl(sysfs: Path) -> Iterator[Meter]:
    """Outermost zones, which contain the others: intel-rapl:0, but not intel-rapl:0:0."""
    for zone in sorted((sysfs / "class/powercap").glob("intel-rapl:*")):
        if zone.name.count(":") == 1:
            with suppress(OSError, ValueError):
                yield RaplMeter(zone)


def _ina(sysfs: Path) -> Iterator[Meter]:
    for label in sorted((sysfs / "bus/i2c/devices").glob("*/hwmon/hwmon*/in*_label")):
        channel = label.name.removeprefix("in").removesuffix("_label")
        with suppress(OSError, ValueError):
            yield InaMeter(label.parent, channel)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()
