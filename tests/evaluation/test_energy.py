from pathlib import Path

import numpy as np
import pytest

from tasks.evaluation.energy import EnergyCounter, energy_per_row_mj, find_counters

X = np.zeros((4, 2), np.float32)


def make_zone(powercap: Path, zone: str, name: str, energy_uj: int, range_uj: int = 10**6) -> Path:
    folder = powercap / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return folder / "energy_uj"


class Consumer:
    """A model that consumes 500 microjoules of every counter at each answer."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def run(self, rows: np.ndarray) -> np.ndarray:
        for file in self.files:
            file.write_text(str((int(file.read_text()) + 500) % (10**12 + 1)))
        return rows


def test_find_counters_takes_every_package_and_nothing_within_it(tmp_path):
    for zone, name in [("intel-rapl", "control"), ("intel-rapl:1", "package-1"), ("intel-rapl:0", "package-0")]:
        make_zone(tmp_path, zone, name, 7)
    make_zone(tmp_path, "intel-rapl:0:0", "core", 3)
    make_zone(tmp_path, "intel-rapl:2", "psys", 3)
    assert [counter.file.parent.name for counter in find_counters(tmp_path)] == ["intel-rapl:0", "intel-rapl:1"]
    assert find_counters(tmp_path)[0].read_uj() == 7


def test_find_counters_finds_none_when_there_is_nothing_or_one_cannot_be_read(tmp_path):
    assert find_counters(tmp_path / "missing") == ()
    make_zone(tmp_path, "intel-rapl:0", "package-0", 7)
    make_zone(tmp_path, "intel-rapl:1", "package-1", 7).unlink()
    assert find_counters(tmp_path) == ()


def test_energy_per_row_is_the_sum_over_packages(tmp_path):
    files = [make_zone(tmp_path, f"intel-rapl:{k}", f"package-{k}", 5, range_uj=10**12) for k in range(2)]
    assert energy_per_row_mj(Consumer(files), X, find_counters(tmp_path), seconds=0.01) == pytest.approx(1.0)


def test_energy_per_row_is_right_when_a_counter_wraps(tmp_path):
    file = make_zone(tmp_path, "intel-rapl:0", "package-0", 10**12 - 700, range_uj=10**12)
    assert energy_per_row_mj(Consumer([file]), X, find_counters(tmp_path), seconds=0.01) == pytest.approx(0.5)
    assert int(file.read_text()) < 10**11


def test_consumed_uj_counts_over_a_wrap():
    counter = EnergyCounter(Path("unused"), range_uj=99)
    assert counter.consumed_uj(10, 25) == 15
    assert counter.consumed_uj(95, 5) == 10


def test_energy_per_row_is_none_when_there_is_no_counter():
    assert energy_per_row_mj(Consumer([]), X, ()) is None
