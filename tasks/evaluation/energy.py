"""Energy of a model's answers, from the processor's own counters where the system lets them be read.

Linux shows the RAPL counters of Intel and AMD processors below /sys/class/powercap; since 2020 only
root may read them unless the administrator allows it. Without them there is no figure, never a guess.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.evaluation.runners import Runner, answer

_PACKAGE_ZONE = re.compile(r"^intel-rapl:\d+$")  # `intel-rapl:0:0` is a part of `intel-rapl:0`; AMD has the same names


@dataclass(frozen=True)
class EnergyCounter:
    """The running counter of one processor package, in microjoules; it wraps after `range_uj`."""

    file: Path
    range_uj: int

    def read_uj(self) -> int:
        """Return the counter's value now."""
        return int(self.file.read_text())

    def consumed_uj(self, before: int, after: int) -> int:
        """Return what was consumed between two values, over at most one wrap."""
        return after - before if after >= before else after - before + self.range_uj + 1


def find_counters(powercap: Path = Path("/sys/class/powercap")) -> tuple[EnergyCounter, ...]:
    """Return the counters of all processor packages; none unless every one of them can be read."""
    counters: list[EnergyCounter] = []
    try:
        for zone in sorted(powercap.iterdir()):
            if _PACKAGE_ZONE.match(zone.name) and (zone / "name").read_text().startswith("package"):
                counter = EnergyCounter(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()))
                counter.read_uj()
                counters.append(counter)
    except (OSError, ValueError):
        return ()
    return tuple(counters)


def energy_per_row_mj(
    runner: Runner, x: np.ndarray, counters: tuple[EnergyCounter, ...], *, seconds: float = 0.5
) -> float | None:
    """Return millijoules for one row at batch 1, or None where there is no counter.

    It is the energy of the whole package while it does nothing but answer, what it burns idle
    included. The counters move once a millisecond, so many answers are measured together.

    Args:
        runner: The loaded model.
        x: Rows [N, *input_shape], used in turn.
        counters: From `find_counters`.
        seconds: How long to measure.
    """
    if not counters:
        return None
    rows = [x[index : index + 1] for index in range(len(x))]
    num_answers = 0
    before = [counter.read_uj() for counter in counters]
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        answer(runner, rows[num_answers % len(rows)])
        num_answers += 1
    after = [counter.read_uj() for counter in counters]
    consumed = sum(counter.consumed_uj(*pair) for counter, *pair in zip(counters, before, after, strict=True))
    return consumed / 1e3 / num_answers
