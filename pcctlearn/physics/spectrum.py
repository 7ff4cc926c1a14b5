"""Fluence of an X-ray tube at the detector: tube voltage, filtration and exposure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcctlearn.physics.attenuation import density_g_cm3, mass_attenuation
from pcctlearn.physics.spectrum_file import (
    EnergyUnit,
    SpectrumTable,
    check_spectrum,
    read_spectrum,
)
from pcctlearn.resources import resource
from pcctlearn.shapes import Energies, Fluence


class SpekpyTube(NamedTuple):
    """A tungsten tube whose spectrum is computed by spekpy."""

    tube_voltage_kV: float
    anode_degrees: float


class Spectrum:
    """Photons per energy sample that reach a pixel without an object.

    S(E) = scale · T(E) · exp(−Σ_f μ_f(E) t_f) · ΔE, with the tube output T in photons per keV, the
    width ΔE of each energy sample, and the inherent and added filters f of thickness t_f. ``scale``
    follows from the exposure, the pixel area and the inverse square of the distance, or from
    ``photons_per_pixel``, which fixes the sum over the kept energies.

    Args:
        table: text file of the tube's output, one row per energy (``read_spectrum``), a
            ``SpekpyTube`` or a ``SpectrumTable``.
        inherent_filtration_cm, added_filtration_cm: {material: thickness in cm}.
        exposure_mAs: tube current times the duration of one view.
        pixel_area_cm2, source_to_detector_cm: area of a pixel and its distance from the source.
        photons_per_pixel: photons per pixel and view, instead of the exposure.
        lowest_keV: lower energies are dropped. They give no counts above the lowest threshold, and
            exp(−μ A) overflows there for slightly negative A.
        energy_unit: unit of the energies in the text file.

    Raises:
        FileNotFoundError: the table does not exist.
        ValueError: the table is not a spectrum.
    """

    def __init__(
        self,
        table: str | Path | SpekpyTube | SpectrumTable,
        inherent_filtration_cm: Mapping[str, float] | None = None,
        added_filtration_cm: Mapping[str, float] | None = None,
        exposure_mAs: float = 1.0,
        pixel_area_cm2: float = 0.01,
        source_to_detector_cm: float = 100.0,
        photons_per_pixel: float | None = None,
        lowest_keV: float = 12.0,
        energy_unit: EnergyUnit = "keV",
    ) -> None:
        tube = tube_output(table, energy_unit)
        source = "given as arrays" if isinstance(table, SpectrumTable) else str(table)
        if not (tube.absolute or photons_per_pixel is not None):
            raise ValueError(
                f"the spectrum {source} does not state the area, exposure and distance of its "
                "photons: give photons_per_pixel, such as photons_per_pixel=1e6"
            )
        last = tube.energies_keV[tube.fluence > 0].max()  # zeros above the tube voltage
        kept = (tube.energies_keV >= lowest_keV) & (tube.energies_keV <= last)
        if kept.sum() < 2:
            raise ValueError(
                f"lowest_keV={lowest_keV:g} removes the whole spectrum {source}, which ends at "
                f"{last:g} keV: lower lowest_keV"
            )
        self.energies_keV = tube.energies_keV[kept]
        attenuated = (tube.fluence * cell_widths_keV(tube.energies_keV))[kept]
        for filtration in (inherent_filtration_cm or {}, added_filtration_cm or {}):
            for material, thickness_cm in filtration.items():
                attenuated = attenuated * transmission(material, thickness_cm, self.energies_keV)
        if photons_per_pixel is None:
            distance = (100.0 / source_to_detector_cm) ** 2
            self.fluence = attenuated * exposure_mAs * pixel_area_cm2 * distance
        else:
            self.fluence = attenuated * (photons_per_pixel / attenuated.sum())
        if not (self.fluence.isfinite().all() and self.fluence.sum() > 0):
            raise ValueError(
                f"the spectrum {source} has no photons left: lower the filtration "
                f"(inherent {dict(inherent_filtration_cm or {})}, "
                f"added {dict(added_filtration_cm or {})})"
                f" or raise exposure_mAs={exposure_mAs:g}, photons_per_pixel={photons_per_pixel}"
            )

    @classmethod
    def from_arrays(
        cls,
        energies_keV: Tensor | np.ndarray | Sequence[float],
        fluence: Tensor | np.ndarray | Sequence[float],
        **settings: Any,
    ) -> "Spectrum":
        """Build a spectrum from increasing energies and the photons per keV at each of them.

        The fluence is in photons/(cm² mAs keV) at 100 cm and scales with the exposure; together
        with ``photons_per_pixel`` it may have any scale. If the steps differ, divide photons per
        sample by the width of the step. ``settings`` are the other parameters of ``Spectrum``;
        there is no filtration by default.

        Raises:
            ValueError: values that cannot be a spectrum (``check_spectrum``).
        """
        energies, photons = (
            torch.as_tensor(values, dtype=torch.float64).detach().clone()
            for values in (energies_keV, fluence)
        )
        check_spectrum(energies, photons, "the spectrum")
        return cls(SpectrumTable(energies, photons, absolute=True), **settings)

    @classmethod
    def tungsten(
        cls,
        tube_voltage_kV: float,
        filtration_cm: Mapping[str, float] | None = None,
        photons_per_pixel: float | None = 1e6,
        anode_degrees: float = 12.0,
        lowest_keV: float = 12.0,
    ) -> "Spectrum":
        """Build the spectrum of a tungsten tube from a table of the package.

        Without ``photons_per_pixel`` it is that of 1 mAs on 0.01 cm² at 100 cm.

        Raises:
            ValueError: there is no table of this tube voltage and anode angle.
        """
        folder = resource("data", "physics", "spectra")
        table = folder / f"tungsten_{tube_voltage_kV:g}kV_{anode_degrees:g}deg.csv"
        if not table.is_file():
            known = ", ".join(sorted(path.stem for path in folder.glob("tungsten_*.csv")))
            raise ValueError(
                f"there is no table of {tube_voltage_kV:g} kV and an anode angle of "
                f"{anode_degrees:g}°, only {known}: use Spectrum.from_spekpy for other tubes"
            )
        return cls(
            table,
            filtration_cm,
            photons_per_pixel=photons_per_pixel,
            lowest_keV=lowest_keV,
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
        """Build the spectrum of a tungsten tube of any voltage and anode angle with spekpy."""
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


def tube_output(
    source: str | Path | SpekpyTube | SpectrumTable, energy_unit: EnergyUnit = "keV"
) -> SpectrumTable:
    """Energies in keV and photons per keV, from a table or for unfiltered tungsten by spekpy."""
    if isinstance(source, SpectrumTable):
        return source
    if not isinstance(source, SpekpyTube):
        return read_spectrum(source, energy_unit)
    if not (20 <= source.tube_voltage_kV <= 300 and 0 < source.anode_degrees < 90):
        raise ValueError(
            "tube_voltage_kV must lie in 20 … 300 and anode_degrees between 0 and 90, got "
            f"{source.tube_voltage_kV:g} and {source.anode_degrees:g}"
        )
    try:
        import spekpy
    except ImportError:
        raise ImportError(
            "the spectrum of this tube needs spekpy: `pip install -r requirements-spectra.txt`, or "
            "use a table of data/physics/spectra"
        ) from None
    voltage_kV, anode_degrees = source
    # 1 keV steps at 1 m for 1 mAs, as in the tables
    tube = spekpy.Spek(kvp=voltage_kV, th=anode_degrees, dk=1.0, z=100, mas=1, targ="W")
    energies, fluence = (torch.from_numpy(np.array(a, np.float64)) for a in tube.get_spectrum())
    return SpectrumTable(energies, fluence, absolute=True)


def cell_widths_keV(energies_keV: Energies) -> Energies:
    """Width ΔE of each energy sample, whose borders lie halfway to the neighbours."""
    steps = energies_keV.diff()
    if torch.allclose(steps, steps[0]):
        return steps[0].expand(len(energies_keV))
    return torch.cat([steps[:1], (steps[1:] + steps[:-1]) / 2, steps[-1:]])


def transmission(material: str, thickness_cm: float, energies_keV: Energies) -> Fluence:
    """exp(−(μ/ρ)(E) ρ t) of a filter of thickness t in cm."""
    area_density = density_g_cm3(material) * thickness_cm
    return torch.exp(-mass_attenuation(material, energies_keV) * area_density)
