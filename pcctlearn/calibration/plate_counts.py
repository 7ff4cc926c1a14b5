"""Expected counts above a threshold behind plates, for every pixel, with their derivatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.response.base import Response
from pcctlearn.physics.skew import skew_filter
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import without_upper_limit
from pcctlearn.shapes import Energies

OfPixels = Float[Tensor, "pixel"]
OfPlates = Float[Tensor, "pixel exposure"]
Skews = Float[Tensor, "pixel material"]


class PlateCounts(NamedTuple):
    """Counts P of each pixel and exposure for a gain of one, and their relative derivatives.

    ``slopes`` are p_n = −∂ ln P/∂x_n (1/cm), ``hazard`` is h = −∂ ln P/∂T (1/keV).
    """

    counts: OfPlates
    slopes: Float[Tensor, "pixel exposure material"]
    hazard: OfPlates


@dataclass(frozen=True)
class PlateModel:
    """N_i^m(T) = k_i Σ_E S(E) A_m(E) exp(−Σ_n μ_n(E) x_in) G(E, T)  [2, eqs 3, 4].

    Args:
        energies_keV: of the spectrum.
        fluence: S, photons that reach a pixel without a plate.
        transmission: A_m of the plates of each exposure.
        attenuation_per_cm: μ_n of the skew materials.
        response: G(E, T), events above T for each photon of energy E.
    """

    energies_keV: Energies
    fluence: Float[Tensor, "energy"]
    transmission: Float[Tensor, "exposure energy"]
    attenuation_per_cm: Float[Tensor, "material energy"]
    response: Response

    def above(self, threshold_keV: OfPixels) -> tuple[Tensor, Tensor]:
        """G(E, T_i) and −∂G/∂T, (pixel, energy), of one and the same interpolant."""

        def per_photon(edges: Tensor) -> Tensor:
            return self.response.above(edges[:, None], self.energies_keV)[:, 0]

        ones = torch.ones_like(threshold_keV)
        result = torch.func.jvp(per_photon, (threshold_keV,), (ones,))
        return result[0], -result[1]

    def counts(self, thickness_cm: Skews, above: tuple[Tensor, Tensor] | OfPixels) -> PlateCounts:
        """Expected counts for a gain of one; ``above`` is that of a threshold, or the threshold."""
        G, density = self.above(above) if isinstance(above, Tensor) else above
        ones = torch.ones_like(thickness_cm[:, 0])
        spectrum = self.fluence * skew_filter(ones, thickness_cm, self.attenuation_per_cm)
        plates = self.transmission.T
        effective = spectrum * G
        P = effective @ plates
        slopes = [(effective * mu) @ plates / P for mu in self.attenuation_per_cm]
        return PlateCounts(P, torch.stack(slopes, -1), (spectrum * density) @ plates / P)


def require_within(thresholds_keV: Float[Tensor, "threshold"], energies_keV: Energies) -> None:
    """Raise ValueError if a threshold is not within the energies of the spectrum."""
    if not (energies_keV[0] <= thresholds_keV[0] and thresholds_keV[-1] < energies_keV[-1]):
        raise ValueError(
            f"thresholds_keV of {thresholds_keV.tolist()} keV are not all within the energies of "
            f"the spectrum, {energies_keV[0]:g} to {energies_keV[-1]:g} keV: correct "
            "thresholds_keV, or give all energies of the tube (spectrum/energies_keV and "
            "spectrum/fluence of a file)"
        )


def plate_model(
    plates: CalibrationSet, nominal: SpectralModel, materials: Sequence[str]
) -> PlateModel:
    """Expected counts behind the plates in float64."""
    energies = nominal.energies_keV.double()
    high = float(energies[-1])
    edges = nominal.thresholds.edges_keV.detach().double()
    wanted, given = edges[..., :-1].tolist(), plates.thresholds_keV.tolist()
    if (
        edges.ndim != 1
        or len(wanted) != len(given)
        or not torch.allclose(edges[:-1], plates.thresholds_keV.double(), rtol=0, atol=1e-3)
    ):
        raise ValueError(
            f"the plates were measured above {given} keV, the scanner has thresholds of {wanted} "
            f"keV: use {without_upper_limit(given, high)}"
        )
    if float(edges[-1]) < high:
        raise ValueError(
            f"counts above thresholds have no upper limit, but the scanner counts up to "
            f"{float(edges[-1]):g} keV only: use {without_upper_limit(given, high)}"
        )
    require_within(plates.thresholds_keV, energies)
    return PlateModel(
        energies,
        nominal.fluence.double(),
        plates.transmission(energies),
        linear_attenuation(materials, energies),
        nominal.response,
    )
