"""Counts of a detector whose pixels differ, behind plates."""

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel


@torch.no_grad()
def measured_plates(
    pixels: PixelModel,
    nominal: SpectralModel,
    plates_cm: Float[Tensor, "exposure material"],
    materials: tuple[str, ...],
    photons: float,
    seed: int | None = None,
) -> CalibrationSet:
    """Counts above thresholds behind plates, with the exposure known.

    Bins are Poisson distributed and independent; counts above thresholds are sums of bins, so that
    they share the photons above the higher threshold.

    Args:
        pixels: what each pixel does.
        nominal: the scanner.
        plates_cm, materials: of each exposure.
        photons: that reach a pixel in air.
        seed: of the noise; expected counts without one.
    """
    attenuation = linear_attenuation(materials, nominal.energies_keV)
    transmission = torch.exp(-plates_cm @ attenuation)
    spectra = pixels.spectral_model(nominal).spectra()
    bins = torch.einsum("...be,me->m...b", spectra, transmission)
    bins = bins * (photons / nominal.fluence.sum())
    if seed is not None:
        bins = draw_counts(bins, torch.Generator().manual_seed(seed))
    return CalibrationSet.from_bins(
        bins, plates_cm, materials, pixels.nominal_keV, torch.ones_like(plates_cm[:, 0])
    )
