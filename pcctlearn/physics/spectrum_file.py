"""X-ray spectra as tables: those of data/physics, and two columns as other programs write them."""

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
_LOWEST_keV, _HIGHEST_keV = 1.0, 1000.0  # of a tube; beyond, the unit is another


class SpectrumTable(NamedTuple):
    """Photon energies and fluence per keV; ``absolute`` if that is per cm² and mAs at 100 cm."""

    energies_keV: Energies
    fluence: Fluence
    absolute: bool


def read_spectrum(path: str | Path, energy_unit: EnergyUnit = "keV") -> SpectrumTable:
    """The spectrum of a text file.

    Tables of data/physics/spectra begin with ``energy_keV,fluence_per_cm2_mAs_keV_at_100cm``. Of
    any other file the rows that begin with two numbers are taken, as SpekPy, SpekCalc, TASMIP and
    gecatsim write them: separated by commas, semicolons, tabs or blanks, with decimal points or
    commas. A staircase of two rows for each cell (``get_spectrum(edges=True)`` of SpekPy) becomes
    one sample at the centre of each.

    Raises:
        FileNotFoundError: no such file. ValueError: no spectrum, as ``check_spectrum`` says.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no spectrum table at {path}: name an existing one, or make it with "
            "`python data/physics/make_spectra.py` (needs spekpy)"
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
    """Raise ValueError, naming ``source``, for what cannot be the spectrum of an X-ray tube."""
    if energies_keV.shape != fluence.shape or energies_keV.ndim != 1 or len(energies_keV) < 2:
        raise ValueError(
            f"{source} must have one fluence for each of two or more energies, got "
            f"{tuple(fluence.shape)} for {tuple(energies_keV.shape)}: {_LAYOUT}"
        )
    if not (energies_keV.isfinite().all() and (energies_keV >= 0).all()):
        raise ValueError(
            f"the energies of {source} must be finite and not negative: leave the other rows out"
        )
    if (falling := energies_keV.diff() <= 0).any():
        before, after = energies_keV[int(falling.nonzero()[0]) :][:2].tolist()
        raise ValueError(
            f"the energies of {source} must increase, and {after:g} keV follows {before:g} keV: "
            "sort the rows by energy, each energy once, and leave out rows of other numbers"
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
        ("NaN or infinite", ~fluence.isfinite(), "leave those samples out"),
        ("negative", fluence < 0, "set them to 0"),
    ):
        if wrong.any():
            raise ValueError(
                f"the fluence of {source} is {name} in {int(wrong.sum())} of {len(fluence)} "
                f"samples, the first at {energies_keV[wrong][0].item():g} keV: {remedy}"
            )
    if not fluence.any():
        raise ValueError(
            f"the fluence of {source} is zero at every energy: give the column with the photons"
        )
    if not fluence.sum().isfinite():
        raise ValueError(
            f"the fluence of {source} sums to infinity: divide it by its largest value"
        )


def _rows(path: Path, lines: list[str]) -> Iterator[list[float]]:
    """The first two numbers of every row, from the first row on that has two."""
    begun = False
    for number, line in enumerate(lines, 1):
        cells = _numbers(line)
        if len(cells) >= 2:
            begun = True
            yield cells[:2]
        elif begun and line.strip() and line.strip()[0] not in "#%;!":
            raise ValueError(
                f"line {number} of {path} is no row of a spectrum, {line.strip()[:40]!r}: {_LAYOUT}"
            )


def _numbers(line: str) -> list[float]:
    """The first two cells of a line, or none where one of them is no number."""
    cells = [cell for cell in re.split(r"[;\s]+", line) if cell]
    if len(cells) < 2 or any(cell[0] == "," or cell[-1] == "," for cell in cells):
        cells = [cell for cell in re.split(r"[,;\s]+", line) if cell]
    try:
        return [float(cell.replace(",", ".")) for cell in cells[:2]]
    except ValueError:
        return []


def _cells(rows: Tensor) -> tuple[Energies, Fluence]:
    """Rows as samples; the two rows of each cell of a staircase as one sample at its centre."""
    energies, fluence = rows.T.contiguous()
    if len(rows) >= 4 and len(rows) % 2 == 0:
        starts, ends = energies.reshape(-1, 2).T
        levels = fluence.reshape(-1, 2)
        if torch.equal(starts[1:], ends[:-1]) and torch.equal(levels[:, 0], levels[:, 1]):
            return (starts + ends) / 2, levels[:, 0].contiguous()
    return energies, fluence
