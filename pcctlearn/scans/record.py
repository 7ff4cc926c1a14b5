"""The contents of a scan file: counts, scanner, and the truth if it is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.shapes import Edges, Energies, Fluence
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.grids import VolumeGrid


class SpectrumRecord(NamedTuple):
    """Photons per energy sample that reach a central pixel with nothing in the beam."""

    energies_keV: Energies
    fluence: Fluence


class ResponseRecord(NamedTuple):
    """The arrays of a ``Table``; ``response_per_keV`` in events per keV and photon."""

    energies_keV: Energies
    deposited_keV: Float[Tensor, "deposited"]
    response_per_keV: Float[Tensor, "deposited energy"]


@dataclass(frozen=True)
class ScanRecord:
    """The contents of a scan file; ``None`` for arrays that are absent or were not read.

    A scan with a fan or parallel beam has one row of pixels, and a grid of one slice.

    Counts, primary, scatter (after ``grid_transmission``), its standard error and air, the expected
    counts with nothing in the beam, are in photons. Line integrals are in g/cm² and maps in g/cm³,
    both of ``materials``; the maps lie on ``maps_grid``. ``skew_cm`` is the thickness of
    ``filter_materials``. All of these but ``skew_cm`` are float32, the others float64.

    ``exposure`` is that of every view over that of ``air``; where it is absent, all are equal.
    ``thresholds_keV`` are the nominal thresholds, ``true_thresholds_keV`` those that the counts
    were made with. ``grid`` is the grid of the reconstruction. ``scanner_to_patient`` maps
    (x, y, z, 1) of the scanner to (R, A, S, 1) of the patient, in cm. ``config`` is the resolved
    YAML of the run that made the file. ``view_s`` is the counting time of a view. ``doubts`` are
    warnings about the file, one sentence each.
    """

    name: str
    geometry: Geometry
    grid: VolumeGrid
    thresholds_keV: Edges
    air: Float[Tensor, "bin row column"]
    counts: Float[Tensor, "bin view row column"] | None = None
    exposure: Float[Tensor, "view"] | None = None
    primary: Float[Tensor, "bin view row column"] | None = None
    scatter: Float[Tensor, "bin view row column"] | None = None
    scatter_standard_error: Float[Tensor, "bin view row column"] | None = None
    line_integrals: Float[Tensor, "material view row column"] | None = None
    maps: Float[Tensor, "material z y x"] | None = None
    maps_grid: VolumeGrid | None = None
    materials: tuple[str, ...] = ()
    true_thresholds_keV: Float[Tensor, "row column edge"] | None = None
    skew_cm: Float[Tensor, "filter row column"] | None = None
    scanner_to_patient: Float[Tensor, "4 4"] | None = None
    filter_materials: tuple[str, ...] = ()
    spectrum: SpectrumRecord | None = None
    response: ResponseRecord | None = None
    seed: int | None = None
    grid_transmission: float | None = None
    view_s: float | None = None
    config: str | None = None
    software: str | None = None
    doubts: tuple[str, ...] = ()

    def at(self, name: str) -> Tensor:
        """The array of this name; ValueError if it is absent or was not read."""
        values = getattr(self, name)
        if values is None:
            raise ValueError(
                f"the scan {self.name!r} holds no {name}: add it to its file, or to `only` in "
                "read_scan"
            )
        return values

    def of_equal_exposure(self) -> "ScanRecord":
        """The scan with its counts divided by the exposure of their view.

        A factor common to all bins of a ray does not move the minimum of its likelihood.
        """
        if self.exposure is None:
            return self
        counts = self.at("counts") / self.exposure.to(self.at("counts"))[:, None, None]
        return replace(self, counts=counts, exposure=None)

    def spectral_model(
        self, materials: Sequence[str] | None = None, edges_keV: Edges | None = None
    ) -> SpectralModel | None:
        """The model of its spectrum, response and thresholds; ``None`` if one is absent.

        Args:
            materials: basis materials; by default those of the maps.
            edges_keV: thresholds; by default the nominal ones.
        """
        if self.spectrum is None or self.response is None:
            return None
        names = list(materials or self.materials)
        if not names:
            raise ValueError(f"the scan {self.name!r} has no materials: give materials")
        thresholds = Thresholds(self.thresholds_keV if edges_keV is None else edges_keV)
        attenuation = attenuation_table(names, self.spectrum.energies_keV)
        return SpectralModel(*self.spectrum, Table(*self.response), thresholds, attenuation, names)
