"""Fluence of an X-ray tube at the detector: tube voltage, filtration and exposure."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcctlearn.physics.attenuation import DENSITY_G_CM3, mass_attenuation
from pcctlearn.shapes import Energies, Fluence

_COLUMNS = "energy_keV,fluence_per_cm2_mAs_keV_at_100cm"

# keV, cm²/g: mass energy-absorption of dry air (NIST, Hubbell and Seltzer, NISTIR 5632).
_AIR_ENERGY_ABSORPTION = [
    *((5, 39.31), (6, 22.70), (8, 9.446), (10, 4.742), (15, 1.334), (20, 0.5389), (30, 0.1537)),
    *((40, 0.06833), (50, 0.04098), (60, 0.03041), (80, 0.02407), (100, 0.02325), (150, 0.02496)),
]


class SpekpyTube(NamedTuple):
    """A tungsten tube that spekpy computes when it is asked for, in place of a table."""

    tube_voltage_kV: float
    anode_degrees: float


class Spectrum:
    """Photons per energy sample that reach a pixel with nothing in the beam.

    S(E) = scale · T(E) · exp(−Σ_f μ_f(E) t_f) · ΔE, with the tube's table T, and the inherent and
    the added filtration f of thickness t_f. ``scale`` follows from the exposure, the pixel area
    and the inverse square of the distance; ``photons_per_pixel``, where given, fixes the sum over
    the kept energies instead.

    Args:
        table: text table of the unfiltered tube output, one row per energy (see SOURCES.md), or a
            ``SpekpyTube``.
        inherent_filtration_cm, added_filtration_cm: {material: thickness in cm}.
        exposure_mAs: tube current times time of one view.
        pixel_area_cm2, source_to_detector_cm: size and place of the pixel.
        photons_per_pixel: photons per pixel and view, in place of the exposure.
        lowest_keV: energies below are dropped: they carry no counts above the lowest threshold,
            and exp(−μ A) overflows there for a slightly negative A.

    Raises:
        FileNotFoundError: the table does not exist. ValueError: a table that is no spectrum.
    """

    def __init__(
        self,
        table: str | Path | SpekpyTube,
        inherent_filtration_cm: Mapping[str, float],
        added_filtration_cm: Mapping[str, float] | None = None,
        exposure_mAs: float = 1.0,
        pixel_area_cm2: float = 0.01,
        source_to_detector_cm: float = 100.0,
        photons_per_pixel: float | None = None,
        lowest_keV: float = 12.0,
    ) -> None:
        energies, fluence = tube_output(table)
        kept = energies >= lowest_keV
        if kept.sum() < 2:
            raise ValueError(f"lowest_keV={lowest_keV:g} leaves nothing of the spectrum {table}")
        self.energies_keV, width = energies[kept], energies.diff()[0]
        attenuated = fluence[kept] * width
        for filtration in (inherent_filtration_cm, added_filtration_cm or {}):
            for material, thickness_cm in filtration.items():
                attenuated = attenuated * transmission(material, thickness_cm, self.energies_keV)
        if photons_per_pixel is None:
            distance = (100.0 / source_to_detector_cm) ** 2
            self.fluence = attenuated * exposure_mAs * pixel_area_cm2 * distance
        else:
            self.fluence = attenuated * (photons_per_pixel / attenuated.sum())
        if not (self.fluence.isfinite().all() and self.fluence.sum() > 0):
            raise ValueError(
                f"the spectrum {table} has no photons left: lower the filtration "
                f"(inherent {dict(inherent_filtration_cm)}, "
                f"added {dict(added_filtration_cm or {})})"
                f" or raise exposure_mAs={exposure_mAs:g}, photons_per_pixel={photons_per_pixel}"
            )

    @classmethod
    def from_spekpy(
        cls,
        tube_voltage_kV: float,
        anode_degrees: float,
        inherent_filtration_cm: Mapping[str, float],
        added_filtration_cm: Mapping[str, float] | None = None,
        exposure_mAs: float = 1.0,
        pixel_area_cm2: float = 0.01,
        source_to_detector_cm: float = 100.0,
        photons_per_pixel: float | None = None,
        lowest_keV: float = 12.0,
    ) -> "Spectrum":
        """The same of a tungsten tube of any voltage and anode angle, computed by spekpy."""
        return cls(
            SpekpyTube(tube_voltage_kV, anode_degrees),
            inherent_filtration_cm,
            added_filtration_cm,
            exposure_mAs,
            pixel_area_cm2,
            source_to_detector_cm,
            photons_per_pixel,
            lowest_keV,
        )


def tube_output(source: str | Path | SpekpyTube) -> tuple[Tensor, Tensor]:
    """Energies in keV and photons/(cm² mAs keV) at 100 cm, unfiltered: a table's or spekpy's."""
    if not isinstance(source, SpekpyTube):
        return read_spectrum(source)
    if not (20 <= source.tube_voltage_kV <= 300 and 0 < source.anode_degrees < 90):
        raise ValueError(
            "tube_voltage_kV must lie in 20 … 300 and anode_degrees between 0 and 90, got "
            f"{source.tube_voltage_kV:g} and {source.anode_degrees:g}"
        )
    try:
        import spekpy
    except ImportError:
        raise ImportError(
            "spekpy computes this tube: `pip install -r requirements-spectra.txt`, or take one of "
            "the tables in data/physics/spectra"
        ) from None
    voltage_kV, anode_degrees = source
    # 1 keV steps at 1 m for 1 mAs, as in the tables
    tube = spekpy.Spek(kvp=voltage_kV, th=anode_degrees, dk=1.0, z=100, mas=1, targ="W")
    energies, fluence = (torch.from_numpy(np.array(a, np.float64)) for a in tube.get_spectrum())
    return energies, fluence


def transmission(material: str, thickness_cm: float, energies_keV: Energies) -> Fluence:
    """exp(−(μ/ρ)(E) ρ t) of a filter of thickness t in cm."""
    if material not in DENSITY_G_CM3:
        known = ", ".join(DENSITY_G_CM3)
        raise ValueError(f"no density is known for the filter {material!r}: use one of {known}")
    area_density = DENSITY_G_CM3[material] * thickness_cm
    return torch.exp(-mass_attenuation(material, energies_keV) * area_density)


def mean_energy_keV(energies_keV: Energies, fluence: Fluence) -> Tensor:
    """Σ E S(E) / Σ S(E)."""
    return (fluence * energies_keV).sum(-1) / fluence.sum(-1)


def half_value_layer_cm(
    energies_keV: Energies, fluence: Fluence, material: str = "aluminium"
) -> float:
    """Thickness of the filter that halves the air kerma Σ S E (μ_en/ρ)_air, by bisection, in cm."""
    # xraylib's energy absorption of air is a third too low near 20 keV: NIST's table instead.
    energy, absorption = np.log(_AIR_ENERGY_ABSORPTION).T
    log_energies = np.log(energies_keV.cpu().numpy())
    air = torch.from_numpy(np.exp(np.interp(log_energies, energy, absorption))).to(fluence.device)
    kerma = fluence * energies_keV * air
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        behind = (kerma * transmission(material, middle, energies_keV)).sum() / kerma.sum()
        low, high = (middle, high) if behind > 0.5 else (low, middle)
    return (low + high) / 2


def read_spectrum(path: str | Path) -> tuple[Tensor, Tensor]:
    """Energies in keV and photons/(cm² mAs keV) at 100 cm, from a text table with its passport."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no spectrum table at {path}: name an existing one, or make it with "
            "`python data/physics/make_spectra.py` (needs spekpy)"
        )
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    if not lines or lines[0].strip() != _COLUMNS:
        got = lines[0] if lines else "nothing"
        raise ValueError(f"{path} must have the columns {_COLUMNS!r}, got {got!r}")
    try:
        rows = np.array([[float(cell) for cell in line.split(",")] for line in lines[1:] if line])
        energies, fluence = torch.from_numpy(rows.T.copy())
    except ValueError:
        raise ValueError(f"{path} must hold two numbers in every row below {_COLUMNS!r}") from None
    steps = energies.diff()
    if not (len(energies) > 1 and (steps > 0).all() and torch.allclose(steps, steps[0])):
        raise ValueError(f"the energies of {path} must increase in equal steps")
    if not (fluence.isfinite().all() and (fluence >= 0).all()):
        raise ValueError(f"the fluence in {path} must be finite and not negative")
    return energies, fluence
