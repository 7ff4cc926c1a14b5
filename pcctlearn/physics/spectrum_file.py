"""Read X-ray spectra: the tables of data/physics, and two-column files of other programs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pcctlearn.reading.text import read_text
from pcctlearn.shapes import Energies, Fluence

EnergyUnit = Literal["keV", "eV", "MeV"]
_COLUMNS = "energy_keV,fluence_per_cm2_mAs_keV_at_100cm"
_KEV = {"keV": 1.0, "eV": 1e-3, "MeV": 1e3}
_LAYOUT = (
    "give two numbers in every row, the photon energy and the fluence per keV, below any title "
    "lines"
)
_MOST_BYTES = 2**23
_LOWEST_keV, _HIGHEST_keV = 1.0, 1000.0  # beyond these the unit is not keV


class SpectrumTable(NamedTuple):
    """Photon energies and fluence per keV, per cm² and mAs at 100 cm if ``absolute``."""

    energies_keV: Energies
    fluence: Fluence
    absolute: bool


def read_spectrum(path: str | Path, energy_unit: EnergyUnit = "keV") -> SpectrumTable:
    """Read a spectrum from a text file.

    Tables of data/physics/spectra begin with ``energy_keV,fluence_per_cm2_mAs_keV_at_100cm``. In
    other files, such as those of SpekPy, SpekCalc, TASMIP and gecatsim, the rows that begin with
    two numbers are read. Numbers are separated by commas, semicolons, tabs or blanks and have
    decimal points or commas. A staircase of two rows per cell (``get_spectrum(edges=True)`` of
    SpekPy) is converted to one sample at the center of each cell.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a spectrum (``check_spectrum``).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no spectrum table at {path}: give an existing file, or create the tables of the "
            "package with `python data/physics/make_spectra.py` (needs spekpy)"
        )
    if energy_unit not in _KEV:
        raise ValueError(f"energy_unit must be one of {', '.join(_KEV)}, got {energy_unit!r}")
    lines = read_text(path, "a spectrum", _LAYOUT, _MOST_BYTES).splitlines()
    rows = torch.tensor(list(_rows(path, lines)), dtype=torch.float64).reshape(-1, 2)
    energies, fluence = _cells(rows)
    energies = energies * _KEV[energy_unit]
    check_spectrum(energies, fluence, str(path))
    return SpectrumTable(energies, fluence, any(line.strip() == _COLUMNS for line in lines))


def check_spectrum(energies_keV: Tensor, fluence: Tensor, source: str) -> None:
    """Raise ValueError, naming ``source``, for values that cannot be the spectrum of a tube."""
    if energies_keV.shape != fluence.shape or energies_keV.ndim != 1 or len(energies_keV) < 2:
        raise ValueError(
            f"{source} must have one fluence for each of two or more energies, got "
            f"{tuple(fluence.shape)} for {tuple(energies_keV.shape)}: {_LAYOUT}"
        )
    if not (energies_keV.isfinite().all() and (energies_keV >= 0).all()):
        raise ValueError(
            f"the energies of {source} must be finite and not negative: remove the other rows"
        )
    if (falling := energies_keV.diff() <= 0).any():
        before, after = energies_keV[int(falling.nonzero()[0]) :][:2].tolist()
        raise ValueError(
            f"the energies of {source} must increase, and {after:g} keV follows {before:g} keV: "
            "sort the rows by energy, and keep one row per energy"
        )
    highest = energies_keV[-1].item()
    if highest > _HIGHEST_keV:
        raise ValueError(
            f"{source} runs to {highest:g} keV: if that is in eV, set energy_unit=eV, or divide "
            "the energies by 1000"
        )
    if highest < _LOWEST_keV:
        raise ValueError(
            f"{source} ends at {highest:g} keV: if that is in MeV, set energy_unit=MeV, or "
            "multiply the energies by 1000"
        )
    for name, wrong, remedy in (
        ("NaN or infinite", ~fluence.isfinite(), "remove those samples"),
        ("negative", fluence < 0, "set them to 0"),
    ):
        if wrong.any():
            raise ValueError(
                f"the fluence of {source} is {name} in {int(wrong.sum())} of {len(fluence)} "
                f"samples, the first at {energies_keV[wrong][0].item():g} keV: {remedy}"
            )
    if not fluence.any():
        raise ValueError(
            f"the fluence of {source} is zero at every energy: give the column of the fluence"
        )
    if not fluence.sum().isfinite():
        raise ValueError(
            f"the fluence of {source} sums to infinity: divide it by its largest value"
        )


def _rows(path: Path, lines: list[str]) -> Iterator[list[float]]:
    """First two numbers of every row, starting at the first row that has two."""
    begun = False
    for number, line in enumerate(lines, 1):
        cells = _numbers(line)
        if len(cells) >= 2:
            begun = True
            yield cells[:2]
        elif begun and line.strip() and line.strip()[0] not in "#%;!":
            raise ValueError(
                f"line {number} of {path} is not a row of a spectrum, {line.strip()[:40]!r}: "
                f"{_LAYOUT}"
            )


def _numbers(line: str) -> list[float]:
    """First two cells of a line, or an empty list unless both are numbers."""
    cells = [cell for cell in re.split(r"[;\s]+", line) if cell]
    if len(cells) < 2 or any(cell[0] == "," or cell[-1] == "," for cell in cells):
        cells = [cell for cell in re.split(r"[,;\s]+", line) if cell]
    try:
        return [float(cell.replace(",", ".")) for cell in cells[:2]]
    except ValueError:
        return []


def _cells(rows: Tensor) -> tuple[Energies, Fluence]:
    """Convert rows to samples, and a staircase of two rows per cell to one sample per cell."""
    energies, fluence = rows.T.contiguous()
    if len(rows) >= 4 and len(rows) % 2 == 0:
        starts, ends = energies.reshape(-1, 2).T
        levels = fluence.reshape(-1, 2)
        if torch.equal(starts[1:], ends[:-1]) and torch.equal(levels[:, 0], levels[:, 1]):
            return (starts + ends) / 2, levels[:, 0].contiguous()
    return energies, fluence
