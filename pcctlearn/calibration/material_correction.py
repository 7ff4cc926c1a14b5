"""Beam hardening of several materials corrected in every pixel, by polynomials of projections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.beam_hardening import mean_energies_keV
from pcctlearn.decomposition.polynomial import Polynomial, fit_polynomial, ranges
from pcctlearn.physics.attenuation import attenuation_table, linear_attenuation
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Attenuation, Projections, RayLineIntegrals


@dataclass(frozen=True)
class MaterialCorrection:
    """p_c = Σ_m μ_m A_m, with A_m polynomials of p = −ln(N/N_air) in each pixel [2, eqs 21, 22].

    Args:
        polynomial: of the projections of all thresholds, for each pixel.
        attenuation: of the basis materials at the effective energies, in cm²/g.
        effective_keV: energy of the monochromatic projections of each threshold.
        water_per_cm: attenuation of water at these energies.
    """

    polynomial: Polynomial
    attenuation: Attenuation
    effective_keV: Float[Tensor, "threshold"]
    water_per_cm: Float[Tensor, "threshold"]

    def __call__(self, projections: Projections) -> Projections:
        """Corrected projections."""
        return self.line_integrals(projections) @ self.attenuation.to(projections)

    def line_integrals(self, projections: Projections) -> RayLineIntegrals:
        """Area densities of the basis materials in g/cm²; outside the fit, extrapolated."""
        # in float64: the terms of high degree cancel
        return self.polynomial.of_log_counts(projections.double()).to(projections)


def material_correction(
    spectra: Float[Tensor, "*pixel threshold energy"],
    nominal: SpectralModel,
    range_g_cm2: Mapping[str, float],
    degree: int = 5,
    effective_keV: Sequence[float] | None = None,
) -> MaterialCorrection:
    """Fit the polynomials of all pixels to combinations of the nominal scanner's basis materials.

    Unlike ``beam_hardening``, this is exact for any mixture of the basis materials, apart from the
    error of the polynomials. For water and iodine in a CdTe detector with thresholds of 40 and
    60 keV, degree 5 has errors of 1e-4 and 1e-5 g/cm² (RMS) up to 30 and 0.06 g/cm².

    Args:
        spectra: of the photons counted above each threshold, such as
            ``PixelModel.spectra_above(nominal)``; their sum cancels.
        nominal: the scanner.
        range_g_cm2: {material: largest area density} of every basis material.
        degree: of the polynomials.
        effective_keV: of each threshold; by default the mean energy of the photons that a nominal
            pixel counts in air.

    Raises:
        ValueError: for a range that is missing, or more materials than thresholds.
    """
    n_thresholds, materials = spectra.shape[-2], nominal.materials
    if len(materials) > n_thresholds:
        raise ValueError(
            f"{n_thresholds} thresholds do not determine {len(materials)} basis materials: "
            f"choose at most {n_thresholds} in physics.materials"
        )
    spectra = spectra.detach().double()
    polynomial = fit_polynomial(
        spectra,
        nominal.attenuation.to(spectra),
        degree,
        ranges(range_g_cm2, materials),
        each_pixel=True,
    )
    effective = mean_energies_keV(nominal) if effective_keV is None else effective_keV
    keV = torch.as_tensor(effective, dtype=torch.float64)
    return MaterialCorrection(
        polynomial,
        attenuation_table(materials, keV),
        keV,
        linear_attenuation(["water"], keV)[0],
    )
