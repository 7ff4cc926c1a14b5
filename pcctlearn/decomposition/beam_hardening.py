"""Beam-hardening correction of every pixel: counts to monochromatic projections of water."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.shapes import Projections

_LONGEST_CM, _N_LENGTHS = 26.0, 65


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
        return projections * _polynomial(self.coefficients, projections)

    def slope(self, projections: Projections) -> Projections:
        """dp_c/dp."""
        powers = torch.arange(1, self.coefficients.shape[-1] + 1)
        return _polynomial(self.coefficients * powers.to(self.coefficients), projections)


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
    longest_cm: float = _LONGEST_CM,
) -> BeamHardening:
    """Fit the polynomials of all pixels to water of up to 26 cm.

    Args:
        spectra: of the photons counted above each threshold (``spectra_above``); their sum cancels.
        nominal: the scanner.
        order: K.
        effective_keV: of each threshold; by default the mean energy of the photons that a nominal
            pixel counts in air.
        longest_cm: of the water.

    Raises:
        ValueError: effective energies that are not one for each threshold, or lie outside the
            spectrum.
    """
    energies = nominal.energies_keV.double()
    water = linear_attenuation(["water"], energies)[0]
    effective = mean_energies_keV(nominal) if effective_keV is None else effective_keV
    keV = torch.as_tensor(effective, dtype=torch.float64)
    means = ",".join(f"{mean:.1f}" for mean in mean_energies_keV(nominal))
    if len(keV) != spectra.shape[-2]:
        raise ValueError(
            f"effective_keV lists {len(keV)} energies for {spectra.shape[-2]} thresholds: list one "
            f"for each, such as decomposition.effective_keV=[{means}]"
        )
    first, last = energies[0].item(), energies[-1].item()
    if not ((keV >= first) & (keV <= last)).all():
        raise ValueError(
            f"effective_keV must lie within the spectrum of {first:g} to {last:g} keV, got "
            f"{keV.tolist()}: use the mean energies, decomposition.effective_keV=[{means}]"
        )
    monochromatic = linear_attenuation(["water"], keV)[0]
    spectra = spectra.detach().double()
    # evenly spaced from the first step: no water has no projection
    lengths_cm = torch.arange(1, _N_LENGTHS + 1, dtype=torch.float64) * longest_cm / _N_LENGTHS
    transmission = torch.exp(-lengths_cm[:, None] * water)
    total = spectra.sum(-1, keepdim=True)
    p = -(torch.einsum("...te,le->...tl", spectra, transmission) / total).log()
    target = monochromatic[:, None] * lengths_cm
    # relative residuals: rows are divided by the projection that they should give
    rows = torch.stack([p**q for q in range(1, order + 1)], -1) / target[..., None]
    ones = torch.ones_like(p)[..., None]
    coefficients = torch.linalg.lstsq(rows, ones).solution[..., 0]
    return BeamHardening(coefficients, keV, monochromatic)


def _polynomial(
    coefficients: Float[Tensor, "*pixel threshold power"], p: Projections
) -> Projections:
    """c_1 + c_2 p + … by Horner's scheme."""
    c = coefficients.to(p)
    total = c[..., -1].expand_as(p)
    for power in range(c.shape[-1] - 2, -1, -1):
        total = total * p + c[..., power]
    return total


def mean_energies_keV(nominal: SpectralModel) -> list[float]:
    """Mean energy of the photons that are counted above each threshold in air, over all pixels."""
    spectra = over_pixels(spectra_above(nominal))
    return ((spectra @ nominal.energies_keV.to(spectra)) / spectra.sum(-1)).tolist()


def over_pixels(
    spectra: Float[Tensor, "*pixel threshold energy"],
) -> Float[Tensor, "threshold energy"]:
    """Mean spectra of all pixels."""
    return spectra.flatten(0, -3).mean(0) if spectra.ndim > 2 else spectra


@torch.no_grad()
def spectra_above(model: SpectralModel) -> Float[Tensor, "*pixel threshold energy"]:
    """Spectra of the photons counted above each threshold."""
    return above_from_bins(model.spectra(), dim=-2)
