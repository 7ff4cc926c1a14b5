"""Forward model: line integrals of basis materials to expected photon counts."""

import copy
import logging
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcctlearn.physics.attenuation import Material, attenuation_table
from pcctlearn.physics.response.base import Response
from pcctlearn.physics.skew import Skew
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.shapes import (
    Attenuation,
    Edges,
    Energies,
    Fluence,
    RayCounts,
    RayLineIntegrals,
    Spectra,
)

log = logging.getLogger(__name__)


def expected_counts(
    line_integrals: RayLineIntegrals, spectra: Spectra, attenuation: Attenuation
) -> RayCounts:
    """ȳ_b(A) = Σ_E S_b(E) · exp(−Σ_m μ_m(E) A_m), with A in g/cm² and μ in cm²/g.

    Spectra per pixel, (*pixel, bin, energy), broadcast against the last axes of the rays.
    """
    with torch.autocast(line_integrals.device.type, enabled=False):  # half precision has 3 digits
        transmission = torch.exp(-line_integrals @ attenuation)
        return torch.einsum("...e,...be->...b", transmission, spectra)


class SpectralModel(nn.Module):
    """Line integrals → expected counts: fluence, skew, detector response, thresholds, attenuation.

    Args:
        energies_keV, fluence: photons per energy sample that reach a pixel; the fluence may differ
            between pixels.
        response: detector response.
        thresholds: edges of the energy bins.
        attenuation: mass attenuation of the basis materials at these energies, cm²/g.
        materials: names of the basis materials.
        skew: filter of each pixel, by which its spectrum differs from the fluence; by default none.

    Raises:
        ValueError: shapes that do not match, or energies that do not cover the thresholds.
    """

    energies_keV: Tensor
    fluence: Tensor
    attenuation: Tensor

    def __init__(
        self,
        energies_keV: Energies,
        fluence: Fluence,
        response: Response,
        thresholds: Thresholds,
        attenuation: Attenuation,
        materials: Sequence[str] | None = None,
        skew: Skew | None = None,
    ) -> None:
        super().__init__()
        for name, values in (("fluence", fluence), ("attenuation", attenuation)):
            if values.shape[-1] != len(energies_keV):
                raise ValueError(
                    f"{name} has {values.shape[-1]} energies, energies_keV {len(energies_keV)}: "
                    "put both on one grid"
                )
            if not (values.isfinite().all() and (values >= 0).all()):
                raise ValueError(f"{name} must be finite and not negative")
        edges = thresholds.edges_keV.detach()
        lowest, top_bin = edges[..., 0].min().item(), edges[..., -2].max().item()
        if energies_keV[0] > lowest or energies_keV[-1] < top_bin:
            raise ValueError(
                f"energies from {energies_keV[0].item():g} to {energies_keV[-1].item():g} keV do "
                f"not cover the thresholds {lowest:g} … {top_bin:g} keV: lower the first energy "
                "(lowest_keV), raise the tube voltage or move the thresholds"
            )
        self.register_buffer("energies_keV", energies_keV)
        self.register_buffer("fluence", fluence)
        self.register_buffer("attenuation", attenuation)
        self.response, self.thresholds, self.skew = response, thresholds, skew
        self.materials = list(materials or (f"material {i}" for i in range(len(attenuation))))

    @classmethod
    def from_parts(
        cls,
        spectrum: Spectrum,
        response: Response,
        thresholds: Thresholds,
        materials: Sequence[Material],
    ) -> "SpectralModel":
        """Build the model from a tube spectrum, a detector and named basis materials."""
        attenuation = attenuation_table(materials, spectrum.energies_keV)
        top, last = thresholds.edges_keV.detach()[..., -1].min(), spectrum.energies_keV[-1]
        if top < last - 1:
            log.warning(
                "photons from %g to %g keV are not counted: the last threshold lies below them; "
                "raise physics.thresholds.edges_keV to the tube voltage",
                top,
                last,
            )
        names = [m if isinstance(m, str) else "+".join(m) for m in materials]
        return cls(
            spectrum.energies_keV, spectrum.fluence, response, thresholds, attenuation, names
        )

    def with_edges(self, edges_keV: Edges) -> "SpectralModel":
        """The same scanner with other thresholds, shared or per pixel."""
        other = copy.deepcopy(self)
        learn = [bool(one) for one in self.thresholds.learn]
        other.thresholds = Thresholds(edges_keV.detach(), learn=learn)
        return other

    def require_materials(self, materials: Sequence[str]) -> None:
        """Raise ValueError unless these are the basis materials, in this order."""
        if self.materials != list(materials):
            wanted = ",".join(materials)
            raise ValueError(
                f"the basis materials must be {wanted}, got {','.join(self.materials)}: use "
                f"physics.materials=[{wanted}]"
            )

    def spectra(self, edges_keV: Edges | None = None) -> Spectra:
        """S_b(E'): counts in bin b per energy sample without an object."""
        edges = self.thresholds() if edges_keV is None else edges_keV
        above = self.response.above(edges, self.energies_keV)  # smooth in the edges
        fluence = self.fluence if self.skew is None else self.fluence * self.skew()
        return (above[..., :-1, :] - above[..., 1:, :]) * fluence[..., None, :]

    def air(self) -> Float[Tensor, "*pixel bin"]:
        """Expected counts without an object."""
        return self.spectra().sum(-1)

    def forward(self, line_integrals: RayLineIntegrals) -> RayCounts:
        """Expected counts for line integrals in g/cm², in their precision."""
        spectra, attenuation = self.spectra(), self.attenuation
        return expected_counts(
            line_integrals, spectra.to(line_integrals), attenuation.to(line_integrals)
        )
