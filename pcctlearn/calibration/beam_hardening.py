"""Beam-hardening correction of every pixel: counts to monochromatic projections of water."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.base import Projections
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins

_LENGTHS_CM = torch.linspace(0.4, 26.0, 65, dtype=torch.float64)


@dataclass(frozen=True)
class BeamHardening:
    """p_c = Σ_q c_q p^q with p = −ln(N/N_air), for each pixel and threshold [2, eqs 17 to 20].

    Args:
        coefficients: c_1 … c_K.
        effective_keV: energy of the monochromatic projections of each threshold.
        water_per_cm: attenuation of water at these energies.
    """

    coefficients: Float[Tensor, "*pixel threshold power"]
    effective_keV: Float[Tensor, "threshold"]
    water_per_cm: Float[Tensor, "threshold"]

    def __call__(self, projections: Projections) -> Projections:
        """Corrected projections."""
        c = self.coefficients.to(projections)
        corrected = c[..., -1] * projections
        for power in range(c.shape[-1] - 2, -1, -1):  # Horner's scheme
            corrected = (corrected + c[..., power]) * projections
        return corrected


@dataclass(frozen=True)
class MappedHardening:
    """The beam-hardening correction of projections that are mapped pixel by pixel first."""

    mapping: Callable[[Projections], Projections]
    hardening: BeamHardening

    @property
    def effective_keV(self) -> Float[Tensor, "threshold"]:
        """Energy of the monochromatic projections of each threshold."""
        return self.hardening.effective_keV

    @property
    def water_per_cm(self) -> Float[Tensor, "threshold"]:
        """Attenuation of water at these energies."""
        return self.hardening.water_per_cm

    def __call__(self, projections: Projections) -> Projections:
        """Corrected projections."""
        return self.hardening(self.mapping(projections))


def beam_hardening(
    spectra: Float[Tensor, "*pixel threshold energy"],
    nominal: SpectralModel,
    order: int = 5,
    effective_keV: Sequence[float] | None = None,
) -> BeamHardening:
    """Fit the polynomials of all pixels to water of 0.4 to 26 cm.

    Args:
        spectra: of the photons counted above each threshold (``spectra_above``); their sum cancels.
        nominal: the scanner.
        order: K.
        effective_keV: of each threshold; by default the mean energy of the photons that a nominal
            pixel counts in air.
    """
    energies = nominal.energies_keV.double()
    water = linear_attenuation(["water"], energies)[0]
    effective = mean_energies_keV(nominal) if effective_keV is None else effective_keV
    keV = torch.as_tensor(effective, dtype=torch.float64)
    monochromatic = linear_attenuation(["water"], keV)[0]
    spectra = spectra.detach().double()
    transmission = torch.exp(-_LENGTHS_CM[:, None] * water)
    total = spectra.sum(-1, keepdim=True)
    p = -(torch.einsum("...te,le->...tl", spectra, transmission) / total).log()
    target = monochromatic[:, None] * _LENGTHS_CM
    # relative residuals: rows are divided by the projection that they should give
    rows = torch.stack([p**q for q in range(1, order + 1)], -1) / target[..., None]
    ones = torch.ones_like(p)[..., None]
    coefficients = torch.linalg.lstsq(rows, ones).solution[..., 0]
    return BeamHardening(coefficients, keV, monochromatic)


def mean_energies_keV(nominal: SpectralModel) -> list[float]:
    """Mean energy of the photons that are counted above each threshold in air."""
    spectra = spectra_above(nominal)
    return ((spectra @ nominal.energies_keV.to(spectra)) / spectra.sum(-1)).tolist()


@torch.no_grad()
def spectra_above(model: SpectralModel) -> Float[Tensor, "*pixel threshold energy"]:
    """Spectra of the photons counted above each threshold."""
    return above_from_bins(model.spectra(), dim=-2)
